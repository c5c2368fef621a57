"""Credit levels, the advantage form, routing and weights of questions, each with a number by hand.

Shapes: `N` tokens, `K` compared outcomes, `V` vocabulary.
"""

import math
from dataclasses import replace

import pytest
import torch

from tests.sdpo.test_loss import loss_and_gradient, random_logits
from verl.sdpo.config import SelfDistillationConfig
from verl.sdpo.head import EagerHead, TokenStatistics
from verl.sdpo.objective import Objective, Tokens
from verl.sdpo.question_weight import QUESTION_WEIGHTS
from verl.sdpo.routing import ROUTINGS

REVERSE = {"alpha": 1.0, "is_clip": None}
ADVANTAGE = REVERSE | {"credit": "logit-advantage"}


def objective_of(**block) -> Objective:
    return SelfDistillationConfig(**REVERSE | block).objective


def statistics(
    objective, student_NV, teacher_NV, ids_N, old_NV=None
) -> tuple[TokenStatistics, TokenStatistics, Tokens]:
    """Of logits, as the micro-step makes them; one sequence."""
    kept = None
    if old_NV is not None:
        old = EagerHead(ids_N, objective.support).reduce(old_NV)
        kept = old.support_indices
    head = EagerHead(ids_N, objective.support, support_indices=kept)
    student = head.reduce(student_NV)
    teacher = replace(head, support_indices=student.support_indices).reduce(teacher_NV)
    tokens = Tokens(torch.zeros(len(ids_N), dtype=torch.long), torch.tensor([len(ids_N)]))
    if old_NV is not None:
        tokens = replace(tokens, old_log_probs=old.log_probs, old_topk_log_probs=old.support_log_probs)
    return student, teacher, tokens


def losses(objective, probabilities, ids, old=None):
    """Loss of each token and its reports; `probabilities` are (student, teacher), rows of tokens each."""
    student, teacher, old = (
        None if p is None else torch.tensor(p, dtype=torch.float64).log() for p in (*probabilities, old)
    )
    inputs = statistics(objective, student, teacher, torch.tensor(ids), old)
    return objective.compare(*inputs)


# Numbers by hand: the student says (1/2, 3/10, 1/5), its teacher (1/4, 1/2, 1/4).
STUDENT, TEACHER = [[0.5, 0.3, 0.2]], [[0.25, 0.5, 0.25]]


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        # 1/2 log(2) for the likeliest token, 1/2 log(2/3) for the rest: advantages log(1/2) and log(3/2).
        ({"credit": "token"}, 0.5 * math.log(2) - 0.5 * math.log(1.5)),
        ({"credit": "token", "distillation_add_tail": False}, 0.5 * math.log(2)),
        # The two likeliest, and 1/5 against 1/4.
        (
            {"credit": "logit-advantage", "distillation_topk": 2},
            0.5 * math.log(2) + 0.3 * math.log(0.6) + 0.2 * math.log(0.8),
        ),
        (
            {"credit": "logit-advantage", "distillation_topk": 2, "distillation_add_tail": False},
            0.5 * math.log(2) + 0.3 * math.log(0.6),
        ),
        # log(5/3) = 0.51 and log(5/4) = 0.22 become 0.1.
        (
            {"credit": "logit-advantage", "distillation_topk": None, "advantage_clip": 0.1},
            0.5 * math.log(2) - 0.3 * 0.1 - 0.2 * 0.1,
        ),
    ],
)
def test_a_token_by_hand(block, expected):
    loss, _ = losses(objective_of(**block), (STUDENT, TEACHER), [1])
    assert loss.tolist() == pytest.approx([expected], abs=1e-12)


def test_the_share_of_clipped_advantages_is_the_probability_they_had():
    _, reports = losses(
        objective_of(credit="logit-advantage", distillation_topk=None, advantage_clip=0.1), (STUDENT, TEACHER), [1]
    )
    assert reports["advantage_clip_fraction"].tolist() == pytest.approx([0.5])


def test_sequence_level_gives_every_token_the_mean_advantage():
    """Sampled tokens 0 and 1: advantages log(1/2) and log(5/3), mean log(5/6)/2; the gradient is -A on log pi."""
    objective = objective_of(credit="sequence")
    student = torch.tensor(STUDENT * 2, dtype=torch.float64).log().requires_grad_()
    teacher = torch.tensor(TEACHER * 2, dtype=torch.float64).log()
    ours, theirs, tokens = statistics(objective, student, teacher, torch.tensor([0, 1]))
    loss, _ = objective.compare(ours, theirs, tokens)
    advantage = 0.5 * math.log(5 / 6)
    assert loss.tolist() == pytest.approx([-advantage, -advantage])
    (gradient,) = torch.autograd.grad(loss.sum(), ours.log_probs)
    assert gradient.tolist() == pytest.approx([-advantage, -advantage])


def test_sequences_do_not_mix():
    objective = objective_of(credit="sequence", advantage_clip=0.3)
    student, teacher = (torch.tensor(p * 3, dtype=torch.float64).log() for p in (STUDENT, TEACHER))
    ours, theirs, _ = statistics(objective, student, teacher, torch.tensor([0, 1, 1]))
    tokens = Tokens(torch.tensor([0, 1, 1]), torch.tensor([1, 2]))
    loss, reports = objective.compare(ours, theirs, tokens)
    # log(1/2), and log(5/3) = 0.51, bounded by 0.3.
    assert loss.tolist() == pytest.approx([math.log(2), -0.3, -0.3])
    assert reports["advantage_clip_fraction"].tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("old", "expected", "clipped"),
    [
        # Ratios 1/2 : 0.4 = 1.25 and 1/2 : 0.6, clipped to [0.9, 1.1]. The first advantage is negative, so that the
        # larger ratio stays; the second is positive, and its smaller ratio stays.
        ([[0.4, 0.3, 0.3]], 0.4 * 1.25 * math.log(2) - 0.6 * (0.5 / 0.6) * math.log(1.5), 0.0),
        # 1/2 : 0.6 is below 0.9 with a negative advantage, 1/2 : 0.4 above 1.1 with a positive one: both are clipped.
        ([[0.6, 0.3, 0.1]], 0.6 * 0.9 * math.log(2) - 0.4 * 1.1 * math.log(1.5), 1.0),
    ],
)
def test_the_policy_clip_by_hand(old, expected, clipped):
    """Eq. 13 at token level: the old policy's likeliest token and the rest."""
    objective = objective_of(credit="token", policy_clip=[0.1, 0.1])
    loss, reports = losses(objective, (STUDENT, TEACHER), [1], old)
    assert loss.tolist() == pytest.approx([expected], abs=1e-12)
    assert reports["policy_clip_fraction"].tolist() == pytest.approx([clipped])


@pytest.mark.parametrize("topk", [None, 3])
def test_the_advantage_form_has_the_reverse_kls_gradient(topk):
    """At theta = theta_old (App. B.1); the value too."""
    student, teacher = random_logits(2, 5, 7, seed=1), random_logits(2, 5, 7, seed=2)
    divergence, form = (
        loss_and_gradient(student, teacher, block | {"distillation_topk": topk}) for block in (REVERSE, ADVANTAGE)
    )
    assert form[0].item() == pytest.approx(divergence[0].item(), rel=1e-12)
    torch.testing.assert_close(form[1], divergence[1], rtol=1e-9, atol=1e-12)
    assert divergence[1].abs().max() > 1e-3


def test_a_policy_clip_at_the_old_policy_changes_nothing():
    student, teacher = random_logits(5, 7, seed=3), random_logits(5, 7, seed=4)
    ids, gradients = torch.arange(5), []
    for clip in (None, [0.2, 0.28]):
        objective = objective_of(credit="logit-advantage", distillation_topk=3, policy_clip=clip)
        leaf = student.clone().requires_grad_()
        loss, _ = objective.compare(*statistics(objective, leaf, teacher, ids, student))
        gradients.append(torch.autograd.grad(loss.sum(), leaf)[0])
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-14)


CLIPPED = {"policy_clip": [0.2, 0.28]}


@pytest.mark.parametrize(
    "block",
    [
        {"credit": "token"},
        {"credit": "token", "distillation_add_tail": False, "advantage_clip": 0.2},
        {"credit": "token", **CLIPPED},
        {"credit": "logit-advantage", "distillation_topk": 3},
        {"credit": "logit-advantage", "distillation_topk": 3, **CLIPPED},
        {"credit": "logit-advantage", "distillation_topk": None, "advantage_clip": 0.2},
        {"credit": "sequence"},
        {"credit": "sequence", **CLIPPED},
    ],
    ids=lambda block: "-".join(map(str, block.values())),
)
def test_gradients_by_finite_differences(block):
    """Of the surrogate whose advantages, old policy and compared tokens stay where they were."""
    objective = objective_of(**block)
    student, teacher = random_logits(4, 6, seed=5), random_logits(4, 6, seed=6)
    old, ids = student + 0.2 * random_logits(4, 6, seed=7), torch.tensor([0, 3, 2, 5])
    clip = block.get("policy_clip")
    ours, theirs, tokens = statistics(objective, student, teacher, ids, old if clip else None)

    def frozen(log_probs):
        """What of the first arguments the loss may move: pi of the compared outcomes, or of the sampled tokens."""
        if block["credit"] == "sequence":
            return log_probs.gather(-1, ids.unsqueeze(-1))
        if ours.support_indices is None:
            return log_probs
        kept = log_probs.gather(-1, ours.support_indices)
        tail = (1 - kept.exp().sum(-1, keepdim=True)).log()
        return torch.cat([kept, tail], -1) if block.get("distillation_add_tail", True) else kept

    p, q = (frozen(z.log_softmax(-1)) for z in (student, teacher))
    advantages = q - p
    if block["credit"] == "sequence":
        advantages = advantages.mean().expand_as(p)
    advantages = advantages.clamp(max=block.get("advantage_clip", math.inf))
    before = frozen(old.log_softmax(-1)) if clip else p
    weights = torch.ones_like(p) if block["credit"] == "sequence" else before.exp()

    def surrogate(logits):
        ratio = (frozen(logits.log_softmax(-1)) - before).exp()
        clipped = ratio.clamp(1 - clip[0], 1 + clip[1]) if clip else ratio
        return -(weights * torch.min(ratio * advantages, clipped * advantages)).sum()

    leaf = student.clone().requires_grad_()
    ours = EagerHead(ids, objective.support, support_indices=ours.support_indices).reduce(leaf)
    loss, _ = objective.compare(ours, theirs, tokens)
    assert loss.sum().item() == pytest.approx(surrogate(student).item(), rel=1e-9)
    (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    assert gradient.abs().max() > 1e-3
    for n in range(4):
        for v in range(6):
            step = torch.zeros_like(student)
            step[n, v] = 1e-6
            difference = (surrogate(student + step) - surrogate(student - step)) / 2e-6
            assert gradient[n, v].item() == pytest.approx(difference.item(), abs=1e-7)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"credit": "token"}, "alpha=0.5 with credit token.*Set alpha=1.0"),
        ({"credit": "sequence", "alpha": 0.0}, "alpha=0.0 with credit sequence"),
        ({"credit": "logit-advantage"}, "alpha=0.5 with credit logit-advantage"),
        ({"credit": "token", "alpha": 1.0, "policy_clip": [0.2, 0.28]}, "is_clip=2.0.*Set is_clip=null"),
        (ADVANTAGE | {"policy_clip": 0.2}, "policy_clip=0.2: expected"),
        (ADVANTAGE | {"policy_clip": [1.0, 0.2]}, "policy_clip=.*0 < low < 1"),
        (ADVANTAGE | {"policy_clip": [0.2, 0.2, 0.2]}, "policy_clip=.*low, high"),
        (ADVANTAGE | {"policy_clip": "ab"}, "policy_clip='ab'"),
        (ADVANTAGE | {"policy_clip": [0.2, 0.2], "distillation_topk": None}, "policy_clip=.*Set distillation_topk"),
        (ADVANTAGE | {"advantage_clip": 0}, "advantage_clip=0: expected a number > 0"),
        ({"credit": "token", "full_logit_distillation": False}, "credit=token. Set full_logit_distillation=True"),
        ({"teacher_entropy_beta": -1}, "teacher_entropy_beta=-1: expected a number >= 0"),
        ({"grpo_weight": 1.5}, "grpo_weight=1.5"),
        ({"grpo_weight": 0.9}, "denominator=targets.*Set denominator=all"),
        ({"routing": "srpo"}, "denominator=targets.*Set denominator=all"),
        ({"question_weight": "uncertainty"}, "denominator=targets.*question_weight=uncertainty"),
        ({"routing": "mixed"}, "routing='mixed': expected one of blend, srpo"),
        ({"question_weight": "hard"}, "question_weight='hard': expected one of equal, uncertainty"),
    ],
)
def test_what_does_not_go_together_is_refused(block, message):
    with pytest.raises(ValueError, match=f"self_distillation.{message}"):
        SelfDistillationConfig(**block)


def test_a_sure_teachers_tokens_count_more():
    """Entropies 0 and log 2 with beta 1: weights 1 and 1/2, divided by their mean 3/4; each response has its own."""
    objective = objective_of(credit="sampled-token", teacher_entropy_beta=1.0)
    entropy = torch.tensor([0.0, math.log(2), 7.0], dtype=torch.float64)
    zeros = torch.zeros(3, dtype=torch.float64)
    teacher = TokenStatistics(zeros, entropy)
    tokens = Tokens(torch.tensor([0, 0, 1]), torch.tensor([2, 1]))
    assert objective.weigh(teacher, teacher, tokens).tolist() == pytest.approx([4 / 3, 2 / 3, 1])
    # It multiplies the loss: log(s/t) log s = 2 * 3 at each token.
    student, teacher = TokenStatistics(zeros + 3, entropy), TokenStatistics(zeros + 1, entropy)
    loss, _ = objective(student, teacher, tokens, torch.ones(3))
    assert loss.item() == pytest.approx(18)
    loss, _ = objective(student, teacher, tokens, torch.tensor([1.0, 0, 0]))
    assert loss.item() == pytest.approx(8)


@pytest.mark.parametrize(
    ("name", "block", "teacher", "reward", "reads_rewards"),
    [
        ("blend", {}, [1, 1], [0, 0], False),
        ("blend", {"grpo_weight": 0.9}, [0.1, 0.1], [0.9, 0.9], True),
        ("srpo", {}, [1, 0], [0, 1], True),
    ],
)
def test_shares_of_teacher_and_reward(name, block, teacher, reward, reads_rewards):
    routing = ROUTINGS[name](ROUTINGS[name].Config(**block))
    shares = routing.shares(torch.tensor([True, False]))
    assert [share.tolist() for share in shares] == [pytest.approx(teacher), pytest.approx(reward)]
    assert routing.reads_rewards == reads_rewards


def test_weights_of_questions():
    """sqrt(p (1 - p)) = 1/2, 0, sqrt(3)/4, with mean one."""
    weigh = {name: kind(kind.Config()).weigh for name, kind in QUESTION_WEIGHTS.items()}
    assert weigh["equal"]([0.5, 0.0, 0.25]) == [1, 1, 1]
    mean = (0.5 + math.sqrt(3) / 4) / 3
    assert weigh["uncertainty"]([0.5, 0.0, 0.25]) == pytest.approx([0.5 / mean, 0, math.sqrt(3) / 4 / mean])
    assert weigh["uncertainty"]([1.0, 0.0]) == [0, 0]
    assert weigh["uncertainty"]([]) == []
