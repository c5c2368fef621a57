"""Weights of tokens and sequences. Shapes: `B` sequences, `T` response tokens, `N` tokens that count, flat."""

import pytest
import torch

from tests.sdpo.test_loss import FULL, LOSS_AGG_MODES, loss_from_logits, random_logits
from verl.sdpo.objective import Denominators, Tokens, divergence, token_weights
from verl.trainer.ppo.core_algos import agg_loss, compute_policy_loss_vanilla
from verl.workers.config import FSDPActorConfig

# Rows of very different length, some without a target.
LENGTHS = (1000, 10, 1, 300, 47, 2, 700, 5)
TARGETS = (1, 1, 0, 1, 0, 1, 1, 1)


def mask_of(lengths) -> torch.Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(-1)


@pytest.mark.parametrize(
    ("loss_agg_mode", "expected"),
    [
        ("token-mean", [1 / 4] * 4),
        ("token-sum", [1] * 4),
        ("seq-mean-token-sum", [1 / 2] * 4),
        ("seq-mean-token-mean", [1 / 6, 1 / 6, 1 / 6, 1 / 2]),
        ("seq-mean-token-sum-norm", [1 / 10] * 4),
    ],
)
def test_weights_by_hand(loss_agg_mode, expected):
    """A sequence of three tokens, one of one, one of none: 4 tokens in 2 sequences; norm divides by 5."""
    tokens = Tokens.of(mask_of((3, 1, 0)))
    assert tokens.rows.tolist() == [0, 0, 0, 1]
    counts = {"tokens": 4, "sequences": 2, "loss_scale_factor": 5}
    weights = token_weights(tokens, loss_agg_mode, Denominators(**counts))
    assert weights.tolist() == pytest.approx(expected)
    # FSDP averages over ranks what each of them weighs.
    of_three_ranks = token_weights(tokens, loss_agg_mode, Denominators(**counts, dp_size=3))
    assert of_three_ranks.tolist() == pytest.approx([3 * weight for weight in expected])


@pytest.mark.parametrize("loss_agg_mode", LOSS_AGG_MODES)
def test_weights_are_verls_aggregation(loss_agg_mode):
    """verl adds 1e-8 to the length of a sequence."""
    mask = mask_of(LENGTHS)
    values = random_logits(*mask.shape, seed=50)
    tokens = Tokens.of(mask)
    weights = token_weights(tokens, loss_agg_mode, Denominators(5000, 16, dp_size=2, loss_scale_factor=900))
    expected = agg_loss(
        values,
        mask.double(),
        loss_agg_mode,
        dp_size=2,
        batch_num_tokens=5000,
        global_batch_size=16,
        loss_scale_factor=900,
    )
    assert (weights * values[mask]).sum().item() == pytest.approx(expected.item(), rel=1e-7)


def test_unknown_aggregation_is_refused():
    tokens = Tokens.of(torch.ones(1, 1, dtype=torch.bool))
    for mode in ("token-median", "mean"):
        with pytest.raises(ValueError, match=f"loss_agg_mode='{mode}'.*seq-mean-token-sum-norm"):
            token_weights(tokens, mode, Denominators(1, 1))


def test_nothing_is_divided_by_zero():
    tokens = Tokens.of(torch.zeros(2, 3, dtype=torch.bool))
    for mode in LOSS_AGG_MODES:
        assert token_weights(tokens, mode, Denominators(0, 0, loss_scale_factor=1)).tolist() == []


# The authors' way of weighting: a micro-batch per sequence, its mean over its own tokens (at least one), divided by the
# number of micro-batches of the mini-batch, whether they have a target or not.


def authors_way(loss_of_row, targets) -> torch.Tensor:
    return sum(loss_of_row(row) for row, target in enumerate(targets) if target) / len(targets)


@pytest.mark.parametrize("targets", [TARGETS, (0,) * 8, (0, 0, 1, 0, 0, 0, 0, 0)], ids=["some", "none", "one"])
def test_sdpo_weighs_sequences_as_the_authors_did(targets):
    """Gradients too, on rows of 1 to 1000 tokens; a whole mini-batch without target is zero."""
    config = FULL | {"denominator": "all", "alpha": 1.0}
    mask = mask_of(LENGTHS)
    student = random_logits(*mask.shape, 5, seed=51).requires_grad_()
    teacher = random_logits(*mask.shape, 5, seed=52)

    def row_mean(row):
        p, q = (z[row, : LENGTHS[row]].log_softmax(-1) for z in (student, teacher))
        return (p.exp() * (p - q)).sum(-1).mean()

    expected = authors_way(row_mean, targets)
    loss, _ = loss_from_logits(
        student,
        teacher,
        config,
        mask=mask,
        self_distillation_mask=torch.tensor(targets),
        loss_agg_mode="seq-mean-token-mean",
    )
    assert loss.item() == pytest.approx(float(expected), abs=1e-12)
    if any(targets):
        gradients = [torch.autograd.grad(value, student, retain_graph=True)[0] for value in (loss, expected)]
        assert torch.allclose(*gradients, atol=1e-15, rtol=1e-9)
        assert gradients[0].abs().sum() > 0


def test_the_mini_batches_of_rich_feedback_weigh_alike_only_with_all_sequences():
    """A mini-batch of eight sequences with one target: by the authors' way it has an eighth of the weight that
    `denominator: targets` gives it."""
    mask = mask_of(LENGTHS)
    student, teacher = random_logits(*mask.shape, 5, seed=53), random_logits(*mask.shape, 5, seed=54)
    one = torch.tensor([0, 1, 0, 0, 0, 0, 0, 0])

    def loss(denominator):
        config = FULL | {"denominator": denominator}
        options = {"self_distillation_mask": one, "loss_agg_mode": "seq-mean-token-mean"}
        return loss_from_logits(student, teacher, config, mask=mask, **options)[0].item()

    assert loss("targets") == pytest.approx(8 * loss("all"), rel=1e-12)
    assert loss("all") > 0


def test_metrics_are_means_over_targets_whatever_the_loss_is_divided_by():
    mask = mask_of((3, 5))
    student, teacher = random_logits(2, 5, 4, seed=58), random_logits(2, 5, 4, seed=59)
    metrics = [
        loss_from_logits(
            student, teacher, FULL | {"denominator": name}, mask=mask, self_distillation_mask=torch.tensor([1, 0])
        )[1]
        for name in ("targets", "all")
    ]
    assert metrics[0] == pytest.approx(metrics[1])
    assert metrics[0]["self_distillation/kl"] > 0


def test_the_norm_must_be_told():
    tokens = Tokens.of(torch.ones(1, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match="seq-mean-token-sum-norm with loss_scale_factor=None"):
        token_weights(tokens, "seq-mean-token-sum-norm", Denominators(1, 1))


def test_verls_grpo_weighs_sequences_as_the_authors_did():
    """`baseline_grpo`: verl's own loss with `seq-mean-token-mean`, split into micro-batches or not."""
    mask = mask_of(LENGTHS)
    log_probs = (-1 + 0.1 * random_logits(*mask.shape, seed=55)).requires_grad_()
    old = log_probs.detach() + 0.1 * random_logits(*mask.shape, seed=56)
    advantages = random_logits(len(LENGTHS), 1, seed=57).expand_as(mask)

    def loss_of(rows, mode, **counts):
        config = FSDPActorConfig(
            strategy="fsdp2", ppo_micro_batch_size_per_gpu=1, rollout_n=1, clip_ratio_high=0.28, loss_agg_mode=mode
        )
        config.global_batch_info.update(dp_size=1, loss_scale_factor=None, **counts)
        inputs = (old[rows], log_probs[rows], advantages[rows], mask[rows].double())
        return compute_policy_loss_vanilla(*inputs, loss_agg_mode=mode, config=config)[0]

    def row_mean(row):
        return loss_of([row], "token-mean", batch_num_tokens=LENGTHS[row], global_batch_size=1)

    expected = authors_way(row_mean, (1,) * len(LENGTHS))
    counts = {"batch_num_tokens": sum(LENGTHS), "global_batch_size": len(LENGTHS)}
    for split in ([[*range(8)]], [[0, 1, 2], [3], [4, 5, 6, 7]]):
        loss = sum(loss_of(rows, "seq-mean-token-mean", **counts) for rows in split)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-7)
        gradients = [torch.autograd.grad(value, log_probs, retain_graph=True)[0] for value in (loss, expected)]
        assert torch.allclose(*gradients, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    ("alpha", "p", "towards", "away"),
    [
        (0.0, 0.05, -0.930, 0.049),
        (0.5, 0.05, -0.071, 0.017),
        (1.0, 0.05, -0.325, 0.188),
        (0.0, 0.3, -0.680, 0.299),
        (0.5, 0.3, -0.149, 0.093),
        (1.0, 0.3, -0.995, 1.273),
    ],
)
def test_how_demonstrations_of_two_forms_pull(alpha, p, towards, away):
    """The numbers of docs/algorithm.md: two outcomes, and a teacher that gives the first 0.98 or 0.001."""

    def gradient(q):
        student = torch.tensor([p, 1 - p], dtype=torch.float64).log().requires_grad_()
        teacher = torch.tensor([q, 1 - q], dtype=torch.float64).log()
        (of_logits,) = torch.autograd.grad(divergence(student.log_softmax(-1), teacher, alpha), student)
        return of_logits[0].item()

    assert [gradient(0.98), gradient(0.001)] == pytest.approx([towards, away], abs=1e-3)
