"""Statistics of logits. Shapes: `N` tokens, `K` compared tokens, `V` vocabulary."""

from dataclasses import replace

import pytest
import torch

from tests.sdpo.test_loss import random_logits
from verl.sdpo.head import ENTROPY_CHUNK, SAMPLED_TOKEN, EagerHead, Support
from verl.sdpo.teacher import MixedInLogSpace

FULL, TOP3 = Support(None), Support(3)


def test_statistics_equal_torch_on_every_chunk():
    logits = random_logits(2 * ENTROPY_CHUNK + 3, 11, seed=26).requires_grad_()
    tokens = torch.arange(len(logits)) % 11
    statistics = EagerHead(tokens, FULL).reduce(logits)
    categorical = torch.distributions.Categorical(logits=logits)
    assert torch.allclose(statistics.entropy, categorical.entropy(), atol=1e-12)
    assert torch.allclose(statistics.log_probs, categorical.log_prob(tokens), atol=1e-12)
    assert torch.allclose(statistics.all_log_probs, logits.log_softmax(-1), atol=1e-12)
    assert statistics.log_probs.requires_grad
    assert not statistics.entropy.requires_grad


def test_entropy_has_the_gradient_that_was_asked_for():
    """dH/dz_i = -p_i (log p_i + H)."""
    logits = random_logits(4, 7, seed=40).requires_grad_()
    entropy = (
        EagerHead(torch.zeros(4, dtype=torch.long), SAMPLED_TOKEN, entropy_has_gradient=True).reduce(logits).entropy
    )
    (gradient,) = torch.autograd.grad(entropy.sum(), logits)
    log_p = logits.detach().log_softmax(-1)
    assert torch.allclose(gradient, -log_p.exp() * (log_p + entropy.detach().unsqueeze(-1)), atol=1e-12)


def test_the_head_is_the_output_embedding_at_the_temperature():
    hidden, embedding = random_logits(5, 4, seed=41), torch.nn.Linear(4, 9, bias=True, dtype=torch.float64)
    tokens = torch.arange(5)
    statistics = EagerHead(tokens, TOP3, temperature=0.5)(hidden, embedding)
    expected = (embedding(hidden) / 0.5).log_softmax(-1)
    assert torch.allclose(statistics.log_probs, expected[tokens, tokens], atol=1e-12)
    assert torch.allclose(statistics.support_log_probs, expected.topk(3).values, atol=1e-12)


def test_the_teacher_is_read_where_the_student_is_likely():
    student, teacher = random_logits(5, 9, seed=27), random_logits(5, 9, seed=28)
    head = EagerHead(torch.zeros(5, dtype=torch.long), TOP3)
    of_student = head.reduce(student)
    of_teacher = replace(head, support_indices=of_student.support_indices).reduce(teacher)
    assert torch.equal(of_student.support_indices, student.topk(3).indices)
    assert torch.allclose(of_teacher.support_log_probs, teacher.log_softmax(-1).gather(-1, student.topk(3).indices))


@pytest.mark.parametrize(
    ("support", "filled"), [(FULL, "all_log_probs"), (TOP3, "support_log_probs"), (SAMPLED_TOKEN, None)]
)
def test_statistics_hold_only_what_is_compared(support, filled):
    logits = random_logits(5, 9, seed=29, dtype=torch.bfloat16)
    statistics = EagerHead(torch.zeros(5, dtype=torch.long), support).reduce(logits)
    assert statistics.log_probs.dtype == statistics.entropy.dtype == torch.float32
    for name in ("all_log_probs", "support_log_probs"):
        assert (getattr(statistics, name) is not None) == (name == filled)


def test_statistics_of_no_token_keep_the_graph():
    hidden = torch.zeros(0, 4, requires_grad=True)
    embedding = torch.nn.Linear(4, 9)
    statistics = EagerHead(torch.zeros(0, dtype=torch.long), TOP3)(hidden, embedding)
    assert statistics.log_probs.shape == statistics.entropy.shape == (0,)
    assert statistics.support_log_probs.shape == (0, 3)
    statistics.log_probs.sum().backward()
    assert torch.equal(embedding.weight.grad, torch.zeros(9, 4))


def test_chosen_positions_keep_what_there_is():
    statistics = EagerHead(torch.tensor([0, 1, 2]), TOP3).reduce(random_logits(3, 9, seed=42))
    chosen = statistics.at(torch.tensor([True, False, True]))
    assert torch.equal(chosen.support_log_probs, statistics.support_log_probs[[0, 2]])
    assert torch.equal(chosen.log_probs, statistics.log_probs[[0, 2]])
    assert chosen.all_log_probs is None


def test_more_outcomes_than_the_vocabulary_are_the_vocabulary():
    assert (Support(20).count(9), Support(3).count(9), FULL.count(9), SAMPLED_TOKEN.count(9)) == (
        9,
        3,
        9,
        0,
    )
    statistics = EagerHead(torch.zeros(2, dtype=torch.long), Support(20)).reduce(random_logits(2, 9, seed=43))
    assert statistics.support_log_probs.shape == (2, 9)


def test_trust_region_teacher_is_the_geometric_mix():
    """p_ref^(3/4) p_student^(1/4), normalised: (1, 1)/2 and (1, 16)/17 give (1, 2)/3."""
    reference, student = torch.tensor([[1.0, 1]]).log(), torch.tensor([[1.0, 16]]).log()
    mixed = MixedInLogSpace(reference.__getitem__, student.__getitem__, 0.25)(slice(None)).softmax(-1)
    assert torch.allclose(mixed, torch.tensor([[1 / 3, 2 / 3]]))
    assert torch.equal(MixedInLogSpace(reference.__getitem__, student.__getitem__, 0.0)(slice(None)), reference)
    assert torch.equal(MixedInLogSpace(reference.__getitem__, student.__getitem__, 1.0)(slice(None)), student)
