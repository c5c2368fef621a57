"""The chunked head against the eager one. Shapes: `N` tokens, `D` hidden, `K` compared tokens, `V` vocabulary."""

from dataclasses import replace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from tests.sdpo.test_loss import random_logits
from verl.sdpo import head as head_module
from verl.sdpo.head import CHUNK_TOKENS, PRODUCT_TOKENS, SAMPLED_TOKEN, ChunkedHead, EagerHead, Support
from verl.sdpo.objective import Divergence, SampledToken, Tokens

V, D = 37, 8
SIZES = (0, 1, CHUNK_TOKENS - 1, CHUNK_TOKENS, 2 * CHUNK_TOKENS + 3)
SUPPORTS = {
    "top-5": Support(5),
    "top-all": Support(100),
    "sampled": SAMPLED_TOKEN,
    "full": Support(None),
}


def embedding(dtype=torch.float64, bias=False, vocabulary=V, width=D):
    linear = torch.nn.Linear(width, vocabulary, bias=bias, dtype=dtype)
    for i, parameter in enumerate(linear.parameters()):
        parameter.data = random_logits(*parameter.shape, seed=60 + i, dtype=dtype, scale=0.7)
    return linear


def run(cls, hidden, linear, support, **options):
    """Statistics, and the gradients of a fixed random function of them."""
    hidden = hidden.clone().requires_grad_()
    linear.zero_grad()
    statistics = cls(torch.arange(len(hidden)) % V, support, **options)(hidden, linear)
    total = (statistics.log_probs * random_logits(len(hidden), seed=63)).sum()
    for values in (statistics.support_log_probs, statistics.all_log_probs):
        if values is not None:
            total = total + (values * random_logits(*values.shape, seed=64)).sum()
    if options.get("entropy_has_gradient"):
        total = total + (statistics.entropy * random_logits(len(hidden), seed=65)).sum()
    total.backward()
    return statistics, [hidden.grad, *(parameter.grad for parameter in linear.parameters())]


@pytest.mark.parametrize("options", [{}, {"temperature": 0.6}, {"entropy_has_gradient": True}, {"num_top": 3}], ids=str)
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("support", SUPPORTS.values(), ids=SUPPORTS)
def test_statistics_and_gradients_are_the_eager_heads(support, size, bias, options):
    hidden, linear = random_logits(size, D, seed=66), embedding(bias=bias)
    expected, expected_gradients = run(EagerHead, hidden, linear, support, **options)
    expected_gradients = [gradient.clone() for gradient in expected_gradients]
    found, gradients = run(ChunkedHead, hidden, linear, support, **options)
    for name in expected._fields:
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert (ours is None) == (theirs is None), name
        if theirs is not None:
            assert ours.requires_grad == theirs.requires_grad, name
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_gradients_equal_finite_differences():
    linear = embedding(bias=True)
    head = ChunkedHead(torch.arange(6), Support(4), temperature=0.6, entropy_has_gradient=True)

    def statistics(hidden, weight, bias):
        module = torch.nn.utils.stateless.functional_call
        result = module(Wrapped(head, linear), {"linear.weight": weight, "linear.bias": bias}, (hidden,))
        return result.log_probs, result.entropy, result.support_log_probs

    inputs = (random_logits(6, D, seed=67).requires_grad_(), linear.weight, linear.bias)
    assert torch.autograd.gradcheck(statistics, inputs)


class Wrapped(torch.nn.Module):
    def __init__(self, head, linear):
        super().__init__()
        self.head, self.linear = head, linear

    def forward(self, hidden):
        return self.head(hidden, self.linear)


def test_it_reads_the_teacher_where_it_is_told():
    linear, hidden = embedding(), random_logits(200, D, seed=68)
    indices = random_logits(200, V, seed=69).topk(3).indices
    head = ChunkedHead(torch.zeros(200, dtype=torch.long), Support(3), support_indices=indices)
    with torch.no_grad():
        expected = linear(hidden).log_softmax(-1).gather(-1, indices)
        assert torch.allclose(head(hidden, linear).support_log_probs, expected, atol=1e-12)


@pytest.mark.parametrize("mode", ["parameters", "autocast"])
def test_in_bf16_the_error_is_the_eager_heads(mode, monkeypatch):
    """Against float64: no more than a little above what the eager head errs. In three products of the backward pass."""
    monkeypatch.setattr(head_module, "VOCABULARY_PART", 200)
    hidden, exact = random_logits(2 * PRODUCT_TOKENS + 150, 64, seed=70), embedding(vocabulary=501, width=64)
    # Rounding may swap two neighbours of the top-k, whose gradients are not each other's.
    indices = exact(hidden).topk(20).indices
    _, truth = run(EagerHead, hidden, exact, Support(20), support_indices=indices)
    truth = [gradient.clone() for gradient in truth]
    dtype = torch.bfloat16 if mode == "parameters" else torch.float32
    coarse = embedding(dtype, vocabulary=501, width=64)
    errors = {}
    for cls in (EagerHead, ChunkedHead):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mode == "autocast"):
            statistics, gradients = run(cls, hidden.to(dtype), coarse, Support(20), support_indices=indices)
        assert statistics.support_log_probs.dtype == torch.float32
        assert [gradient.dtype for gradient in gradients] == [dtype, dtype]
        errors[cls] = [
            ((ours.double() - theirs).norm() / theirs.norm()).item()
            for ours, theirs in zip(gradients, truth, strict=True)
        ]
    for chunked, eager in zip(errors[ChunkedHead], errors[EagerHead], strict=True):
        assert chunked <= 1.1 * eager < 0.05


@pytest.mark.parametrize(
    "objective", [Divergence(Divergence.Config(alpha=0.5)), SampledToken(SampledToken.Config(alpha=1.0))]
)
def test_an_objective_cannot_tell_the_heads_apart(objective):
    student, teacher = random_logits(150, D, seed=71), random_logits(150, D, seed=72)
    linear, tokens = embedding(), Tokens(torch.zeros(150, dtype=torch.long), torch.tensor([150]))
    gradients = []
    for cls in (EagerHead, ChunkedHead):
        hidden = student.clone().requires_grad_()
        head = cls(torch.arange(150) % V, objective.support)
        ours = head(hidden, linear)
        with torch.no_grad():
            theirs = replace(head, support_indices=ours.support_indices)(teacher, linear)
        objective(ours, theirs, tokens, torch.ones(150))[0].backward()
        gradients.append(hidden.grad)
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)
    assert gradients[0].abs().sum() > 0


def peak_bytes(cls, tokens, vocabulary=4096, width=64) -> int:
    """The most that is alive during forward and backward, beyond inputs and weight."""
    hidden = torch.randn(tokens, width, requires_grad=True)
    linear = torch.nn.Linear(width, vocabulary, bias=False)
    head = cls(torch.zeros(tokens, dtype=torch.long), Support(20))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        statistics = head(hidden, linear)
        (statistics.log_probs.sum() + statistics.support_log_probs.sum()).backward()
    alive, peak = 0, 0
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def test_memory_does_not_grow_with_tokens_times_vocabulary():
    """1,024 tokens more: the eager head holds some of 16 MiB each, the chunked one hidden states and statistics."""
    grown = {cls: peak_bytes(cls, 2048) - peak_bytes(cls, 1024) for cls in (EagerHead, ChunkedHead)}
    one = 1024 * 4096 * 4
    assert grown[EagerHead] > 3 * one
    assert grown[ChunkedHead] < 0.1 * one
