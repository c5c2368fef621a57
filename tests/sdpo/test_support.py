"""Supports: which model's most likely tokens are compared. Shapes as in micro_step.py."""

import math
from dataclasses import dataclass

import pytest
import torch

from tests.sdpo.test_chunked_head import D, V, embedding
from tests.sdpo.test_loss import random_logits
from verl.sdpo.config import SelfDistillationConfig
from verl.sdpo.head import HEADS, NO_LOG_PROB, NO_TOKEN, EagerHead, HeadShape, Support
from verl.sdpo.micro_step import MicroBatch, Regularizer, micro_step
from verl.sdpo.model import Rows
from verl.sdpo.objective import Denominators, Divergence
from verl.sdpo.teacher import Frozen, Teacher, TrustRegion

PLAIN = {"is_clip": None, "teacher_regularization": "live"}
REVERSE = PLAIN | {"alpha": 1.0}
ADVANTAGE = REVERSE | {"credit": "logit-advantage"}
SUPPORTS = ("student", "teacher", "union")
heads = pytest.mark.parametrize("head", HEADS)


@dataclass(frozen=True)
class FixedModel:
    """A model that is nothing but its hidden states, (B, T, D), and its head."""

    hidden_BTD: torch.Tensor
    linear: torch.nn.Linear

    def run(self, rows, mask_BT, head):
        # Every token of a row is the row's number.
        numbers = torch.stack([row[0] for row in rows.input_ids.unbind()])
        return head(self.hidden_BTD[numbers][mask_BT], self.linear)


def step(student, teacher, block, *, contexts=None, response_mask=None, objective=None, head="eager"):
    """Loss and metrics of a micro-batch; student, teacher: `FixedModel`s."""
    settings = SelfDistillationConfig(**PLAIN | block)
    size, length = student.hidden_BTD.shape[:2]
    mask = torch.ones(size, length, dtype=torch.bool) if response_mask is None else response_mask
    numbers = [torch.full((length,), number) for number in range(size)]
    rows = Rows(torch.nested.as_nested_tensor(numbers, layout=torch.jagged), mask.sum(-1))
    weights = torch.ones(size) if contexts is None else torch.tensor(contexts, dtype=torch.float32)
    counts = Denominators(tokens=1, sequences=1)
    batch = MicroBatch(
        student_rows=rows,
        teacher_rows=rows,
        token_ids=torch.arange(size * length).view(size, length) % student.linear.out_features,
        response_mask=mask,
        teacher_weights=weights,
        temperature=1.0,
        loss_agg_mode="token-sum",
        context_counts=counts,
        all_counts=counts,
        advantages=torch.ones(size, length),
        reward_weights=torch.ones(size),
    )
    kind = TrustRegion if block.get("teacher_regularization") == "trust-region" else Teacher
    return micro_step(
        batch,
        student=student,
        teacher=kind(kind is TrustRegion and settings.teacher_config, student=teacher, reference=teacher, weights=None),
        objective=objective or settings.objective,
        routing=settings.routing,
        head_class=HEADS[head],
        # No reward: routings that read rewards only widen the loss mask.
        policy_loss=lambda old, log_probs, advantages, weights: log_probs.sum() * 0,
        regularizer=Regularizer(0.0, 0.0, lambda p, q: p),
        teaches=True,
    )


def of_probabilities(*rows) -> FixedModel:
    """One token with these probabilities: hidden states are the log-probabilities, the head the identity."""
    hidden = torch.tensor([rows], dtype=torch.float64).log()
    linear = torch.nn.Linear(hidden.shape[-1], hidden.shape[-1], bias=False, dtype=torch.float64)
    linear.weight.data = torch.eye(hidden.shape[-1], dtype=torch.float64)
    return FixedModel(hidden, linear)


def random_model(seed: int, size: int = 2, length: int = 3) -> FixedModel:
    return FixedModel(random_logits(size, length, D, seed=seed).requires_grad_(), embedding())


# The student says (1/2, 3/10, 1/5), its teacher (1/4, 1/2, 1/4): token 0 is the student's top-1, token 1 the teacher's.
STUDENT, TEACHER = [0.5, 0.3, 0.2], [0.25, 0.5, 0.25]


@heads
@pytest.mark.parametrize("block", [REVERSE, ADVANTAGE], ids=["divergence", "advantages"])
@pytest.mark.parametrize(
    ("support", "expected"),
    [
        # Buckets {0}, rest.
        ("student", 0.5 * math.log(2) + 0.5 * math.log(0.5 / 0.75)),
        # Buckets {1}, rest.
        ("teacher", 0.3 * math.log(0.6) + 0.7 * math.log(1.4)),
        # Buckets {1}, {0}, rest: disjoint, and here the whole vocabulary.
        ("union", 0.3 * math.log(0.6) + 0.5 * math.log(2) + 0.2 * math.log(0.8)),
    ],
)
def test_a_token_by_hand(head, block, support, expected):
    block = block | {"distillation_topk": 1, "support": support}
    loss, _ = step(of_probabilities(STUDENT), of_probabilities(TEACHER), block, head=head)
    assert loss.item() == pytest.approx(expected, abs=1e-12)


@heads
def test_a_token_of_both_counts_once(head):
    """Both have token 0 on top: buckets {0} and rest, (1/2, 1/2) and (3/5, 2/5)."""
    block = REVERSE | {"distillation_topk": 1, "support": "union"}
    loss, metrics = step(of_probabilities(STUDENT), of_probabilities([0.6, 0.2, 0.2]), block, head=head)
    assert loss.item() == pytest.approx(0.5 * math.log(0.5 / 0.6) + 0.5 * math.log(0.5 / 0.4), abs=1e-12)
    assert metrics["self_distillation/tail_mass"].item() == pytest.approx(0.5)


def test_a_union_is_marked_where_it_has_no_token():
    """The given top-2 is (4, 1), the logits' own (1, 3): the union has three tokens."""
    logits = torch.tensor([[0.0, 5.0, 1.0, 4.0, 2.0]], dtype=torch.float64)
    head = EagerHead(torch.tensor([0]), Support(2), support_indices=torch.tensor([[4, 1]]), adds_own_topk=True)
    statistics = head.reduce(logits)
    assert statistics.support_indices.tolist() == [[4, 1, NO_TOKEN, 3]]
    expected = logits.log_softmax(-1)[0, [4, 1, 3]]
    torch.testing.assert_close(statistics.support_log_probs[0, [0, 1, 3]], expected, rtol=0, atol=1e-12)
    assert statistics.support_log_probs[0, 2] == NO_LOG_PROB and math.exp(NO_LOG_PROB) == 0


BLOCKS = {
    "forward": {"alpha": 0.0},
    "jsd": {"alpha": 0.5},
    "reverse": {"alpha": 1.0},
    "renormalised": {"alpha": 0.5, "distillation_add_tail": False},
}


@heads
@pytest.mark.parametrize("support", SUPPORTS)
@pytest.mark.parametrize("name", BLOCKS)
def test_gradients_equal_finite_differences(name, support, head):
    block = BLOCKS[name] | {"distillation_topk": 4, "support": support}
    student, teacher = random_model(90), random_model(91)

    def loss(hidden):
        return step(FixedModel(hidden, student.linear), teacher, block, head=head)[0]

    assert torch.autograd.gradcheck(loss, student.hidden_BTD)
    (gradient,) = torch.autograd.grad(loss(student.hidden_BTD), student.hidden_BTD)
    assert gradient.abs().max() > 1e-3


def gradients(student, teacher, block, **options):
    loss, _ = step(student, teacher, block, **options)
    return loss, torch.autograd.grad(loss, [student.hidden_BTD, student.linear.weight])


def assert_alike(found, expected):
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-11)
    for ours, other in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(ours, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("support", SUPPORTS)
def test_advantages_have_the_reverse_kls_gradient(support):
    block = {"distillation_topk": 4, "support": support}
    student, teacher = random_model(92), random_model(93)
    assert_alike(*(gradients(student, teacher, form | block) for form in (ADVANTAGE, REVERSE)))


@heads
@pytest.mark.parametrize("support", SUPPORTS)
@pytest.mark.parametrize("name", BLOCKS)
def test_a_topk_of_the_whole_vocabulary_equals_the_full_vocabulary(name, support, head):
    student, teacher = random_model(94), random_model(95)
    whole = gradients(student, teacher, BLOCKS[name] | {"distillation_topk": None}, head=head)
    topk = gradients(student, teacher, BLOCKS[name] | {"distillation_topk": V, "support": support}, head=head)
    assert_alike(topk, whole)


def test_the_union_of_equal_topks_is_the_students():
    """Teacher and student rank tokens alike, with other probabilities."""
    student = random_model(96)
    teacher = FixedModel(1.5 * student.hidden_BTD.detach(), student.linear)
    block = BLOCKS["jsd"] | {"distillation_topk": 5}
    assert_alike(*(gradients(student, teacher, block | {"support": support}) for support in ("union", "student")))


@pytest.mark.parametrize("support", SUPPORTS)
def test_heads_agree(support):
    """On more tokens than a chunk of the chunked head holds."""
    block = BLOCKS["jsd"] | {"distillation_topk": 6, "support": support}
    student, teacher = (random_model(seed, size=3, length=70) for seed in (97, 98))
    assert_alike(*(gradients(student, teacher, block, head=head) for head in HEADS))


@heads
@pytest.mark.parametrize("support", SUPPORTS)
def test_a_mixed_teacher_is_read_at_the_same_tokens(support, head):
    """A trust region of a model with itself is that model."""
    block = BLOCKS["jsd"] | {"distillation_topk": 4, "support": support}
    student, teacher = random_model(99), random_model(100)
    mixed = gradients(student, teacher, block | {"teacher_regularization": "trust-region"}, head=head)
    assert_alike(mixed, gradients(student, teacher, block, head=head))


@heads
@pytest.mark.parametrize("support", SUPPORTS)
def test_tokens_outside_the_masks_count_for_exactly_nothing(support, head):
    """The second row has no teacher context, but is computed for its reward; the first one's last token is a tool's."""
    block = BLOCKS["jsd"] | {"distillation_topk": 4, "support": support, "grpo_weight": 0.5, "denominator": "all"}
    student, teacher = random_model(101), random_model(102)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]]).bool()
    loss, (gradient, _) = gradients(student, teacher, block, head=head, contexts=[1, 0], response_mask=mask)
    assert torch.equal(gradient[1], torch.zeros(3, D, dtype=torch.float64))
    assert torch.equal(gradient[0, 2], torch.zeros(D, dtype=torch.float64))
    assert (gradient[0, :2].abs().sum(-1) > 0).all()
    alone = [FixedModel(model.hidden_BTD[:1], model.linear) for model in (student, teacher)]
    expected, _ = step(*alone, block, head=head, response_mask=mask[:1])
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


def test_an_objective_at_the_teachers_topk_is_one_class():
    class AtTeachersTopk(Divergence):
        @property
        def support(self):
            return Support(4, of="teacher")

    student, teacher = random_model(103), random_model(104)
    objective = AtTeachersTopk(Divergence.Config(is_clip=None))
    expected = {"distillation_topk": 4, "support": "teacher"}
    assert_alike(gradients(student, teacher, {}, objective=objective), gradients(student, teacher, expected))


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"support": "both"}, "support='both': expected one of student, teacher, union"),
        ({"support": "teacher", "distillation_topk": None}, "support=teacher with .*distillation_topk=null.*Set disti"),
        (ADVANTAGE | {"support": "union", "policy_clip": [0.2, 0.2]}, "policy_clip=.*support=union.*Set policy_clip=n"),
        ({"support": "teacher", "distillation_topk": 1, "distillation_add_tail": False}, "distillation_topk=1.*zero"),
    ],
)
def test_supports_that_cannot_be_are_refused(block, message):
    with pytest.raises(ValueError, match=f"self_distillation.{message}"):
        SelfDistillationConfig(**block)


def test_a_support_is_ignored_where_nothing_has_a_topk():
    for credit in ("token", "sequence", "sampled-token"):
        assert SelfDistillationConfig(credit=credit, alpha=1.0, support="teacher").ignored == {"support": "teacher"}
    assert SelfDistillationConfig(support="union", distillation_topk=1, distillation_add_tail=False).ignored == {}


def test_a_union_keeps_the_teachers_output_embedding():
    """1000 tokens of 50 hidden numbers in bfloat16: 128 tokens' logits three times in float32, the embedding once."""
    shape = HeadShape(1000, vocabulary=2000, hidden=50, itemsize=2, is_trained=True, device_type="cpu")
    needed = {support: Frozen.peak_bytes(shape, Support(20, of=support)) for support in SUPPORTS}
    assert needed == {"student": 0, "teacher": 0, "union": 3 * 4 * 128 * 2000 + 2 * 2000 * 50}
    assert TrustRegion.peak_bytes(shape, Support(20)) == needed["union"] + 2 * 2000 * 50


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("kind", ["ema", "live", "trust-region"])
def test_through_the_engine(ranks, models, kind, head):
    ranks.run(check_supports, path=models["tied"], kind=kind, head=head)


def check_supports(engines, path, kind, head):
    """Against the divergence in probability space, with the support as a mask over the vocabulary."""
    for support in ("teacher", "union"):
        block = {"teacher_regularization": kind, "head": head, "support": support, "is_clip": None}
        pair = engines.build_pair(path, strategy="fsdp2", settings=block)
        samples = engines.make_samples("10110011")
        teacher_rows = engines.teacher_rows(pair, samples).split([len(s.response) for s in samples])
        student = engines.unsharded(path, engines.full_weights(pair.student))
        losses = []
        for s, teacher_TV in zip(samples, teacher_rows, strict=True):
            if not s.target:
                continue
            p_TV, q_TV = engines.row_logits(student, s.prompt, s.response).softmax(-1), teacher_TV.exp()
            chosen = [q_TV] if support == "teacher" else [p_TV, q_TV]
            member_TV = torch.zeros_like(q_TV, dtype=torch.bool)
            for values in chosen:
                member_TV.scatter_(-1, values.topk(20).indices, True)
            kept = [x * member_TV for x in (p_TV, q_TV)]
            # The gradient of x log x is not finite at zero.
            p, q = (torch.cat([x, 1 - x.sum(-1, keepdim=True)], -1).clamp(min=1e-30) for x in kept)
            m = (p + q) / 2
            divergence = sum((torch.xlogy(x, x) - torch.xlogy(x, m)).sum(-1) / 2 for x in (p, q))
            losses.append(divergence * s.mask * s.rollout_is_weights)
        loss = torch.cat(losses).sum() / sum(s.mask.sum() for s in samples if s.target)
        loss.backward()
        expected = {name: parameter.grad for name, parameter in student.named_parameters()}
        share = engines.rank_share(samples)
        for every, split in ((False, {}), (True, {"use_dynamic_bsz": True, "max_token_len_per_gpu": 80})):
            with engines.every_row_read(every):
                gradients, output = engines.gradients_of(pair.student, share, **split)
            engines.assert_same(gradients, expected, rtol=2e-3, atol=1e-5)
            assert engines.global_loss(output) == pytest.approx(loss.item(), rel=1e-4)
