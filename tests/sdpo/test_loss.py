"""Shapes: `B` sequences, `T` response tokens, `N` tokens of a flat batch, `K` compared tokens, `V` vocabulary."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from tests.sdpo import reference_loss
from verl.sdpo.config import SelfDistillationConfig
from verl.sdpo.head import EagerHead
from verl.sdpo.loss import compute_self_distillation_loss
from verl.sdpo.objective import LOSS_AGG_MODES, add_tail, divergence, kl_divergence

# Values of the authors' loss on fixed random inputs in float64: `student_logits`, `teacher_logits` (B, T, V), `tokens`,
# `response_mask` and the weights (B, T); old log-probabilities are the student's plus `old_shift`. A case has the
# configuration, which inputs it used, the loss, its gradient's norm, and the gradient at [0, 0, :8].
ORACLE = json.loads(Path(__file__).with_name("data").joinpath("loss_oracle.json").read_text())

FULL = {"distillation_topk": None, "is_clip": None}
TAIL = FULL | {"distillation_topk": 3}
RENORMALISED = TAIL | {"distillation_add_tail": False}
SAMPLED = {"is_clip": None, "full_logit_distillation": False, "alpha": 1.0}
ALPHAS = (0.0, 0.25, 0.5, 1.0)
FULL_LOGIT_MODES = {
    f"{name}-alpha{alpha}": config | {"alpha": alpha}
    for name, config in {"full": FULL, "tail": TAIL, "renormalised": RENORMALISED}.items()
    for alpha in ALPHAS
}
MODES = {**FULL_LOGIT_MODES, "sampled": SAMPLED}

full_logit_modes = pytest.mark.parametrize("config", FULL_LOGIT_MODES.values(), ids=FULL_LOGIT_MODES)
all_modes = pytest.mark.parametrize("config", MODES.values(), ids=MODES)
one_of_each_kind = pytest.mark.parametrize(
    "config", [FULL, TAIL, RENORMALISED, SAMPLED], ids=["full", "tail", "renormalised", "sampled"]
)


def random_logits(*shape, seed, dtype=torch.float64, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=generator, dtype=torch.float64) * scale).to(dtype)


def loss_from_logits(student_logits_BTV, teacher_logits_BTV, config, *, tokens=None, mask=None, old_shift=None, **rest):
    """Loss and metrics by the engine's route: logits, their statistics, the loss."""
    shape, vocabulary = student_logits_BTV.shape[:-1], student_logits_BTV.shape[-1]
    tokens = torch.zeros(shape, dtype=torch.long) if tokens is None else tokens
    flat_student, flat_teacher = (z.reshape(-1, vocabulary) for z in (student_logits_BTV, teacher_logits_BTV))
    settings = SelfDistillationConfig(**config)
    head = EagerHead(tokens.reshape(-1), settings.objective.support)
    student = head.reduce(flat_student)
    teacher = replace(head, support_indices=student.support_indices).reduce(flat_teacher)
    log_probs = student.log_probs.view(shape)

    def by_position(tensor):
        return None if tensor is None else tensor.view(*shape, -1)

    return compute_self_distillation_loss(
        log_probs,
        teacher.log_probs.view(shape),
        torch.ones(shape) if mask is None else mask,
        settings,
        old_log_probs=None if old_shift is None else log_probs.detach() + old_shift,
        student_all_log_probs=by_position(student.all_log_probs),
        teacher_all_log_probs=by_position(teacher.all_log_probs),
        student_topk_log_probs=by_position(student.support_log_probs),
        teacher_topk_log_probs=by_position(teacher.support_log_probs),
        **rest,
    )


def loss_and_gradient(student_logits_BTV, teacher_logits_BTV, config, **inputs):
    leaf = student_logits_BTV.clone().requires_grad_()
    loss, metrics = loss_from_logits(leaf, teacher_logits_BTV, config, **inputs)
    loss.backward()
    return loss.detach(), leaf.grad, metrics


def loss_of_probabilities(student_V, teacher_V, config, **inputs):
    """Loss of one token whose distributions are given as plain probabilities."""
    student, teacher = (torch.tensor([[p]], dtype=torch.float64).log() for p in (student_V, teacher_V))
    return loss_and_gradient(student, teacher, config, **inputs)


# Parity with the authors' loss


@pytest.mark.parametrize("case", ORACLE["cases"], ids=lambda case: case["name"])
def test_equals_the_authors_loss(case):
    def tensor(key, wanted=True):
        return torch.tensor(ORACLE[key], dtype=torch.float64) if wanted else None

    loss, gradient, _ = loss_and_gradient(
        tensor("student_logits"),
        tensor("teacher_logits"),
        case["config"],
        tokens=torch.tensor(ORACLE["tokens"]),
        mask=tensor("response_mask"),
        self_distillation_mask=tensor("self_distillation_mask", case["use_mask"]),
        old_shift=tensor("old_shift", case["use_old"]),
        rollout_is_weights=tensor("rollout_is_weights", case["use_riw"]),
        loss_agg_mode=case["agg"],
    )
    assert loss.item() == pytest.approx(case["loss"], abs=1e-9)
    assert gradient.norm().item() == pytest.approx(case["grad_norm"], abs=1e-9)
    assert gradient[0, 0, :8].tolist() == pytest.approx(case["grad_sample"], abs=1e-9)


def test_the_oracle_is_whole():
    assert len({case["name"] for case in ORACLE["cases"]}) == 19


# Numbers derived by hand


def test_forward_kl_by_hand():
    """Teacher (1/2, 1/2), student (1/4, 3/4): KL(teacher || student) = ln(2)/2 + ln(2/3)/2 = ln(4/3)/2 = 0.143841.

    Its gradient with respect to the student's logits is student - teacher = (-1/4, 1/4).
    """
    loss, gradient, _ = loss_of_probabilities([1 / 4, 3 / 4], [1 / 2, 1 / 2], FULL | {"alpha": 0.0})
    assert loss.item() == pytest.approx(math.log(4 / 3) / 2, abs=1e-12)
    assert gradient.flatten().tolist() == pytest.approx([-1 / 4, 1 / 4], abs=1e-12)


def test_reverse_kl_by_hand():
    """Student (1/4, 3/4), teacher (1/2, 1/2): KL(student || teacher) = ln(1/2)/4 + 3 ln(3/2)/4 = 0.130812.

    Gradient of logit i: s_i (ln(s_i/t_i) - KL); for i = 0: (ln(1/2) - 0.130812)/4 = -0.205990.
    """
    loss, gradient, _ = loss_of_probabilities([1 / 4, 3 / 4], [1 / 2, 1 / 2], FULL | {"alpha": 1.0})
    assert loss.item() == pytest.approx(0.130812, abs=1e-6)
    assert gradient.flatten().tolist() == pytest.approx([-0.205990, 0.205990], abs=1e-6)


def test_jensen_shannon_by_hand():
    """Student (1/4, 3/4), teacher (1/2, 1/2), alpha 1/4: m = 3/4 student + 1/4 teacher = (5/16, 11/16).

    KL(student || m) = ln(4/5)/4 + 3 ln(12/11)/4 = 0.009473; KL(teacher || m) = ln(8/5)/2 + ln(8/11)/2 = 0.075775;
    3/4 of the first and 1/4 of the second: 0.026048. With the weights swapped it would be 0.024870 (m = (7/16, 9/16)).
    """
    loss, _, _ = loss_of_probabilities([1 / 4, 3 / 4], [1 / 2, 1 / 2], FULL | {"alpha": 0.25})
    assert loss.item() == pytest.approx(0.026048, abs=1e-6)


def test_tail_bucket_by_hand():
    """Student (1/2, 1/4, 1/8, 1/8), teacher uniform, K = 1: buckets (1/2, 1/2) against (1/4, 3/4).

    Reverse KL = ln(2)/2 + ln(2/3)/2 = ln(4/3)/2 = 0.143841; the student's tail mass is 1/2.
    """
    config = TAIL | {"distillation_topk": 1, "alpha": 1.0}
    loss, _, metrics = loss_of_probabilities([1 / 2, 1 / 4, 1 / 8, 1 / 8], [1 / 4] * 4, config)
    assert loss.item() == pytest.approx(math.log(4 / 3) / 2, abs=1e-12)
    assert metrics["self_distillation/tail_mass"] == pytest.approx(1 / 2, abs=1e-12)


def test_renormalised_topk_by_hand():
    """Student (1/2, 1/4, 1/8, 1/8), teacher uniform, K = 2: (2/3, 1/3) against (1/2, 1/2).

    Reverse KL = 2 ln(4/3)/3 + ln(2/3)/3 = 0.056633.
    """
    config = RENORMALISED | {"distillation_topk": 2, "alpha": 1.0}
    loss, _, _ = loss_of_probabilities([1 / 2, 1 / 4, 1 / 8, 1 / 8], [1 / 4] * 4, config)
    assert loss.item() == pytest.approx(0.056633, abs=1e-6)


def test_sampled_token_by_hand():
    """Sampled token: student 1/4, teacher 1/2: stopgrad(ln(1/4) - ln(1/2)) ln(1/4) = (-ln 2)(-2 ln 2) = 0.960906.

    Gradient of its own logit: -ln(2) (1 - 1/4) = -0.519860.
    """
    loss, gradient, _ = loss_of_probabilities([1 / 4, 3 / 4], [1 / 2, 1 / 2], SAMPLED)
    assert loss.item() == pytest.approx(2 * math.log(2) ** 2, abs=1e-12)
    assert gradient.flatten().tolist() == pytest.approx([-0.75 * math.log(2), 0.75 * math.log(2)], abs=1e-12)


def test_is_clip_by_hand():
    """Two equal tokens with pi/pi_old = 3 and 1/2, is_clip 2: weights 2 (clipped) and 1/2, so 1.25 times their mean.

    Rollout weights (1, 4) on top give 2 and 2: twice the mean.
    """
    student, teacher = (torch.tensor([[p, p]]).double().log() for p in ([1 / 4, 3 / 4], [1 / 2, 1 / 2]))
    config = FULL | {"alpha": 0.0}
    inputs = {"old_shift": torch.tensor([[-math.log(3), math.log(2)]], dtype=torch.float64)}
    plain, _ = loss_from_logits(student, teacher, config, **inputs)
    clipped, metrics = loss_from_logits(student, teacher, config | {"is_clip": 2.0}, **inputs)
    weights = torch.tensor([[1.0, 4.0]], dtype=torch.float64)
    weighted, _ = loss_from_logits(student, teacher, config | {"is_clip": 2.0}, rollout_is_weights=weights, **inputs)
    assert plain.item() == pytest.approx(math.log(4 / 3) / 2, abs=1e-12)
    assert clipped.item() == pytest.approx(1.25 * plain.item(), abs=1e-12)
    assert weighted.item() == pytest.approx(2 * plain.item(), abs=1e-12)
    assert metrics["self_distillation/is_clip_fraction"] == 0.5


def test_importance_ratio_is_bounded_even_without_a_bound_that_matters():
    """e^1000 is infinite in any dtype; the ratio stops at e^20."""
    student, teacher = random_logits(1, 1, 4, seed=32), random_logits(1, 1, 4, seed=33)
    plain, _ = loss_from_logits(student, teacher, FULL)
    weighted, _ = loss_from_logits(student, teacher, FULL | {"is_clip": 1e12}, old_shift=-1000.0)
    assert weighted.item() == pytest.approx(math.exp(20) * plain.item())


# The slow reference and finite differences


@pytest.mark.parametrize("shape", [(1, 1, 4), (3, 5, 7), (2, 1, 33)], ids=str)
@pytest.mark.parametrize(
    ("dtype", "value_budget", "gradient_budget"),
    # The statistics are computed in float32 at least: half precision only rounds the gradient that is handed back.
    [(torch.float64, 1e-12, 1e-12), (torch.float32, 2e-6, 5e-6), (torch.bfloat16, 2e-6, 2**-8)],
    ids=["fp64", "fp32", "bf16"],
)
@full_logit_modes
def test_equals_the_slow_reference(config, dtype, value_budget, gradient_budget, shape):
    student, teacher = (random_logits(*shape, seed=seed, dtype=dtype) for seed in (1, 2))
    mask = torch.ones(shape[:2])
    mask[0, 1:] = 0
    leaf = student.clone().requires_grad_()
    expected = reference_loss.token_mean_loss(leaf.double(), teacher, mask, config)
    (expected_gradient,) = torch.autograd.grad(expected, leaf)
    loss, gradient, _ = loss_and_gradient(student, teacher, config, mask=mask)
    assert gradient.dtype == dtype
    assert loss.item() == pytest.approx(expected.item(), rel=value_budget, abs=value_budget)
    assert (gradient - expected_gradient).abs().max() <= gradient_budget * expected_gradient.abs().max()


@full_logit_modes
def test_gradient_equals_finite_differences(config):
    teacher = random_logits(2, 2, 5, seed=3)
    student = random_logits(2, 2, 5, seed=4).requires_grad_()
    weights = torch.tensor([[0.5, 2.0], [1.0, 3.0]], dtype=torch.float64)
    inputs = {"rollout_is_weights": weights, "loss_agg_mode": "seq-mean-token-sum"}
    assert torch.autograd.gradcheck(lambda z: loss_from_logits(z, teacher, config, **inputs)[0], student)


def test_sampled_token_gradient_is_the_reverse_kl_gradient_on_average():
    """Averaged over the student's own samples, which is what the estimator stands for."""
    student, teacher = random_logits(1, 1, 6, seed=5), random_logits(1, 1, 6, seed=6)
    _, exact, _ = loss_and_gradient(student, teacher, FULL | {"alpha": 1.0})
    expected = torch.zeros_like(exact)
    for token, probability in enumerate(student.softmax(-1).flatten()):
        expected += probability * loss_and_gradient(student, teacher, SAMPLED, tokens=torch.tensor([[token]]))[1]
    assert torch.allclose(expected, exact, atol=1e-12)


# Properties


@examples(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), alpha=st.floats(0, 1), scale=st.floats(0.01, 30), topk=st.integers(1, 9))
def test_divergence_is_a_divergence(seed, alpha, scale, topk):
    """Never negative, zero between equals, and never larger on lumped outcomes than on the full vocabulary."""
    student, teacher = (random_logits(4, 9, seed=s, scale=scale).log_softmax(-1) for s in (seed, seed + 1))
    full = divergence(student, teacher, alpha)
    chosen = student.topk(topk, dim=-1).indices
    lumped = divergence(add_tail(student.gather(-1, chosen)), add_tail(teacher.gather(-1, chosen)), alpha)
    assert (full >= -1e-12).all()
    assert (lumped >= -1e-12).all()
    # add_tail keeps at least 1e-7 for the tail, which matters where hardly anything is left.
    assert (lumped <= full + 1e-5).all()
    assert divergence(student, student, alpha).abs().max() <= 1e-12


@pytest.mark.parametrize(("alpha", "end"), [(1e-6, 0.0), (1 - 1e-6, 1.0)])
def test_interpolation_approaches_each_end_in_proportion(alpha, end):
    """JSD_alpha / alpha -> KL(teacher || student) at 0, JSD_alpha / (1 - alpha) -> KL(student || teacher) at 1."""
    student, teacher = (random_logits(5, 8, seed=seed, scale=1).log_softmax(-1) for seed in (7, 8))
    nearly, exact = divergence(student, teacher, alpha) / 1e-6, divergence(student, teacher, end)
    assert torch.allclose(nearly, exact, rtol=1e-4)


def test_generalised_jsd_swaps_with_its_arguments():
    student, teacher = (random_logits(5, 8, seed=seed).log_softmax(-1) for seed in (9, 10))
    assert torch.allclose(divergence(student, teacher, 0.3), divergence(teacher, student, 0.7), atol=1e-13)


@pytest.mark.parametrize("topk", [6, 100])
@pytest.mark.parametrize("add_tail_bucket", [True, False])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_topk_of_the_whole_vocabulary_equals_the_full_vocabulary(alpha, add_tail_bucket, topk):
    student, teacher = random_logits(2, 3, 6, seed=11), random_logits(2, 3, 6, seed=12)
    full = FULL | {"alpha": alpha}
    topk_config = full | {"distillation_topk": topk, "distillation_add_tail": add_tail_bucket}
    expected, expected_gradient, _ = loss_and_gradient(student, teacher, full)
    loss, gradient, metrics = loss_and_gradient(student, teacher, topk_config)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
    assert torch.allclose(gradient, expected_gradient, atol=1e-12)
    assert metrics["self_distillation/tail_mass"] == pytest.approx(0, abs=1e-12)


def test_tail_holds_what_the_topk_leaves():
    log_probs = random_logits(50, 20, seed=13).log_softmax(-1)
    chosen = log_probs.topk(4, dim=-1).values
    with_tail = add_tail(chosen).exp()
    assert torch.allclose(with_tail.sum(-1), torch.ones(50, dtype=torch.float64), atol=1e-12)
    assert torch.equal(with_tail[:, :4], chosen.exp())


@all_modes
def test_teacher_gets_no_gradient(config):
    student = random_logits(2, 3, 6, seed=14).requires_grad_()
    teacher = random_logits(2, 3, 6, seed=15).requires_grad_()
    loss_from_logits(student, teacher, config)[0].backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


@pytest.mark.parametrize("loss_agg_mode", LOSS_AGG_MODES)
@one_of_each_kind
def test_masked_tokens_count_for_nothing(config, loss_agg_mode):
    """Whatever stands there, to the last bit; by the response mask and by the mask of samples."""
    student, teacher = random_logits(3, 4, 6, seed=16), random_logits(3, 4, 6, seed=17)
    mask = torch.tensor([[1.0, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    inputs = {"mask": mask, "self_distillation_mask": torch.tensor([1.0, 0, 1]), "loss_agg_mode": loss_agg_mode}
    counted = torch.zeros(3, 4, 1, dtype=torch.bool)
    counted[0, [0, 2]] = True
    loss, gradient, _ = loss_and_gradient(student, teacher, config, **inputs)
    other = torch.where(counted, student, random_logits(3, 4, 6, seed=18, scale=50))
    assert loss_and_gradient(other, teacher, config, **inputs)[0] == loss
    assert (gradient[~counted.squeeze(-1)] == 0).all()
    assert (gradient[counted.squeeze(-1)] != 0).any()


@pytest.mark.parametrize("loss_agg_mode", LOSS_AGG_MODES)
@one_of_each_kind
def test_a_batch_without_targets_is_zero_and_has_a_zero_gradient(config, loss_agg_mode):
    student, teacher = random_logits(2, 3, 6, seed=19), random_logits(2, 3, 6, seed=20)
    loss, gradient, metrics = loss_and_gradient(
        student, teacher, config, self_distillation_mask=torch.zeros(2), loss_agg_mode=loss_agg_mode
    )
    assert loss == 0
    assert torch.equal(gradient, torch.zeros_like(student))
    assert set(metrics.values()) == {0.0}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@all_modes
def test_peaked_logits_stay_finite(config, dtype):
    peaked = torch.full((1, 3, 6), -1e4)
    peaked[0, :, 0] = 1e4
    opposite = peaked.flip(-1)
    for student, teacher in ((peaked, peaked), (peaked, opposite), (opposite, peaked)):
        loss, gradient, _ = loss_and_gradient(student.to(dtype), teacher.to(dtype), config)
        assert loss.isfinite()
        assert gradient.isfinite().all()


@all_modes
@pytest.mark.parametrize("token", [0, 1])
def test_one_step_moves_the_student_towards_the_teacher(config, token):
    """Teacher (1/2, 1/2), student (3/4, 1/4): the first probability must fall."""
    if config.get("distillation_topk"):
        config = config | {"distillation_topk": 1 if config.get("distillation_add_tail", True) else 2}
    student = torch.tensor([[[3 / 4, 1 / 4]]]).log()
    _, gradient, _ = loss_and_gradient(student, torch.zeros(1, 1, 2), config, tokens=torch.tensor([[token]]))
    moved = (student - 0.1 * gradient).softmax(-1)
    assert 1 / 2 < moved[0, 0, 0] < 3 / 4


@full_logit_modes
def test_gradient_descent_lowers_the_slow_reference(config):
    student, teacher = random_logits(2, 3, 9, seed=21), random_logits(2, 3, 9, seed=22)
    _, gradient, _ = loss_and_gradient(student, teacher, config)
    before, after = (
        reference_loss.token_mean_loss(z, teacher, torch.ones(2, 3), config) for z in (student, student - gradient)
    )
    assert after < before


# Normalisation over the global mini-batch

LENGTHS = (4, 2, 3, 1, 4, 2)
TARGETS = (1.0, 0.0, 1.0, 1.0, 0.0, 1.0)
# Rows of each micro-batch, by rank. One micro-batch (rows 1 and 4) and one whole rank hold no target at all.
SPLITS = {
    "one by one": [[[0], [1], [2], [3], [4], [5]]],
    "uneven": [[[0, 2], [1, 4], [3, 5]]],
    "two ranks": [[[0, 1], [2]], [[3, 4, 5]]],
    "a rank without targets": [[[0, 2, 3, 5]], [[1], [4]]],
    "all on the other rank": [[[1, 4]], [[5], [3, 2, 0]]],
}


def mini_batch():
    student, teacher = random_logits(6, 4, 7, seed=23), random_logits(6, 4, 7, seed=24)
    mask = (torch.arange(4) < torch.tensor(LENGTHS).unsqueeze(-1)).double()
    tokens = random_logits(6, 4, 7, seed=25).argmax(-1)
    return student, teacher, mask, torch.tensor(TARGETS, dtype=torch.float64), tokens


@one_of_each_kind
@pytest.mark.parametrize("loss_agg_mode", LOSS_AGG_MODES)
@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)
def test_no_split_changes_loss_gradient_or_metrics(split, loss_agg_mode, config):
    """Micro-batches add up and ranks average to the whole mini-batch; each is as narrow as its longest response."""
    student, teacher, mask, targets, tokens = mini_batch()
    norm = {"loss_agg_mode": loss_agg_mode, "loss_scale_factor": 4}
    whole, whole_gradient, whole_metrics = loss_and_gradient(
        student, teacher, config, mask=mask, self_distillation_mask=targets, tokens=tokens, **norm
    )
    norm |= {"batch_num_tokens": (mask * targets.unsqueeze(-1)).sum(), "global_batch_size": targets.sum()}
    loss, gradient = 0.0, torch.zeros_like(student)
    metrics = dict.fromkeys(whole_metrics, 0.0)
    for rows in (rows for rank in split for rows in rank):
        width = max(LENGTHS[row] for row in rows)
        part = loss_and_gradient(
            student[rows, :width],
            teacher[rows, :width],
            config,
            mask=mask[rows, :width],
            self_distillation_mask=targets[rows],
            tokens=tokens[rows, :width],
            dp_size=len(split),
            **norm,
        )
        loss += part[0] / len(split)
        gradient[rows, :width] += part[1] / len(split)
        for name, value in part[2].items():
            metrics[name] += value / len(split)
    assert loss.item() == pytest.approx(whole.item(), abs=1e-12)
    assert torch.allclose(gradient, whole_gradient, atol=1e-14)
    assert metrics == pytest.approx(whole_metrics, abs=1e-12)


def test_several_ranks_must_say_the_global_count():
    log_probs = torch.zeros(1, 1)
    with pytest.raises(ValueError, match="dp_size=2: pass the counts of the global mini-batch"):
        compute_self_distillation_loss(
            log_probs, log_probs, torch.ones(1, 1), SelfDistillationConfig(**SAMPLED), dp_size=2, batch_num_tokens=1
        )


# Metrics and errors


@all_modes
def test_metrics_report_the_reverse_kl(config):
    student, teacher = random_logits(1, 4, 6, seed=30), random_logits(1, 4, 6, seed=31)
    _, metrics = loss_from_logits(student, teacher, config)
    if config is not SAMPLED:
        expected = reference_loss.token_mean_loss(student, teacher, torch.ones(1, 4), config | {"alpha": 1.0}).item()
    else:
        expected = (student.log_softmax(-1) - teacher.log_softmax(-1))[..., 0].mean().item()
    assert metrics["self_distillation/kl"] == pytest.approx(expected, abs=1e-12)
    assert ("self_distillation/tail_mass" in metrics) == bool(config.get("distillation_topk"))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (FULL, "distillation_topk=None.*student_all_log_probs"),
        (TAIL, "distillation_topk=3.*student_topk_log_probs"),
    ],
)
def test_missing_inputs_are_refused(config, message):
    log_probs = torch.zeros(1, 1)
    with pytest.raises(ValueError, match=message):
        compute_self_distillation_loss(log_probs, log_probs, torch.ones(1, 1), SelfDistillationConfig(**config))


def test_kl_divergence_is_directed():
    p, q = torch.tensor([0.25, 0.75]).log(), torch.tensor([0.5, 0.5]).log()
    assert kl_divergence(p, q).item() == pytest.approx(0.130812, abs=1e-6)
    assert kl_divergence(q, p).item() == pytest.approx(0.143841, abs=1e-6)
