"""One micro-batch: masks, student statistics and teacher statistics at the same tokens, the loss.

Shapes: `B` sequences of the micro-batch, `T` response tokens, padded, `N` of them selected by the loss mask, `M` by the
distill mask, `K` tokens of the support. FSDP, packing and ranks stay behind `Model` (engine/distillation_engine.py).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from verl.sdpo.comparison import Compare, ComparingHead, compares_by_chunks
from verl.sdpo.head import NO_TOKEN, SAMPLED_TOKEN, Head, TokenStatistics
from verl.sdpo.model import Model, Rows
from verl.sdpo.objective import Comparison, Denominators, Objective, Tokens, token_weights
from verl.sdpo.routing import Routing
from verl.sdpo.teacher import Teacher


@dataclass(frozen=True)
class Regularizer:
    """verl's entropy bonus and KL penalty to a fixed reference, over all response tokens (`ppo_loss`)."""

    entropy_coeff: float
    kl_coef: float
    """0: none."""
    kl_penalty: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    """verl's: (N,) log-probabilities of model and reference -> (N,)."""

    @property
    def is_active(self) -> bool:
        return self.entropy_coeff != 0 or self.kl_coef != 0

    def __call__(
        self, student: TokenStatistics, ref_log_probs_N: torch.Tensor | None, weights_N: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss, metrics = student.entropy.new_zeros(()), {}
        if self.entropy_coeff != 0:
            entropy = (student.entropy * weights_N).sum()
            metrics["actor/entropy_loss"] = entropy
            loss = loss - self.entropy_coeff * entropy
        if self.kl_coef != 0:
            kl = (self.kl_penalty(student.log_probs, ref_log_probs_N) * weights_N).sum()
            metrics["actor/kl_loss"] = kl
            loss = loss + self.kl_coef * kl
        return loss, metrics


# Most likely tokens of each model that an observer receives for every position, besides the sampled one.
NUM_OBSERVED = 3

Observer = Callable[[torch.Tensor, TokenStatistics, TokenStatistics, torch.Tensor], None]
"""Callback that receives the distill mask, (B, T) bool; student and teacher statistics of its M tokens, with the
`NUM_OBSERVED` most likely tokens of each; and the reverse KL over the support, (M,)."""


@dataclass(frozen=True)
class MicroBatch:
    student_rows: Rows
    teacher_rows: Rows
    token_ids: torch.Tensor
    """(B, T), the responses, padded."""
    response_mask: torch.Tensor
    """(B, T) bool, true on tokens that the model wrote."""
    teacher_weights: torch.Tensor
    """(B,), weight of the row's question; 0 for a row without a teacher context."""
    temperature: float
    loss_agg_mode: str
    context_counts: Denominators
    """Counts of the global mini-batch's tokens and sequences that have a teacher context."""
    all_counts: Denominators
    """Counts of all its tokens and sequences."""
    old_log_probs: torch.Tensor | None = None
    """(B, T), by the policy at the beginning of the training step."""
    old_topk_indices: torch.Tensor | None = None
    """(B, T, K), that policy's most likely tokens."""
    old_topk_log_probs: torch.Tensor | None = None
    """(B, T, K)."""
    advantages: torch.Tensor | None = None
    """(B, T), verl's, from the reward."""
    reward_weights: torch.Tensor | None = None
    """(B,), 0 for a response that could not be graded."""
    rollout_is_weights: torch.Tensor | None = None
    """(B, T)."""
    ref_log_prob: torch.Tensor | None = None
    """(B, T), by the fixed reference of the KL penalty."""
    observer: Observer | None = None

    @property
    def has_context(self) -> torch.Tensor:
        """(B,) bool, true for rows that have a teacher context."""
        return self.teacher_weights > 0


def reads_every_row(regularizer: Regularizer, routing: Routing) -> bool:
    """Return whether rows without a teacher context have a loss too."""
    return regularizer.is_active or routing.reads_rewards


PolicyLoss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
"""verl's PPO loss: (N,) old log-probabilities, log-probabilities, weighted advantages, rollout weights -> the sum."""


def micro_step(
    batch: MicroBatch,
    *,
    student: Model,
    teacher: Teacher,
    objective: Objective,
    routing: Routing,
    head_class: type[Head],
    policy_loss: PolicyLoss,
    regularizer: Regularizer,
    teaches: bool,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return loss and metrics of one micro-batch; both add up over micro-batches and average over ranks.

    Args:
        teaches: whether a row has a teacher context on any rank. All ranks run the same forward passes, with or without
            such rows of their own, so that FSDP's collectives match; where no rank has one, all skip the teacher.
    """
    distill_mask_BT = batch.response_mask & batch.has_context.unsqueeze(-1)
    loss_mask_BT = batch.response_mask if reads_every_row(regularizer, routing) else distill_mask_BT
    head = head_class(
        batch.token_ids[loss_mask_BT],
        objective.support,
        temperature=batch.temperature,
        support_indices=None if batch.old_topk_indices is None else batch.old_topk_indices[loss_mask_BT],
        entropy_has_gradient=regularizer.entropy_coeff != 0,
        num_top=NUM_OBSERVED if batch.observer else 0,
    )
    tokens = Tokens.of(
        distill_mask_BT,
        old_log_probs=batch.old_log_probs,
        rollout_is_weights=batch.rollout_is_weights,
        old_topk_log_probs=batch.old_topk_log_probs,
    )
    compare = partial(objective.compare, tokens=tokens)
    student_stats, comparison = _compare(batch, student, teacher, head, compare, loss_mask_BT, distill_mask_BT, teaches)
    # Attached to the graph: the backward pass of a micro-batch without a teacher context has collectives too.
    loss = student_stats.log_probs.sum() * 0.0
    # In every mini-batch: verl averages over those that have it.
    metrics = {"actor/pg_loss": loss.detach()}
    teacher_share, reward_share = routing.shares(batch.has_context)
    if comparison:
        loss, metrics = _distill(batch, objective, comparison, tokens, distill_mask_BT, teacher_share)
    if routing.reads_rewards:
        reward_loss = _reinforce(batch, policy_loss, student_stats, reward_share)
        loss, metrics = loss + reward_loss, metrics | {"actor/grpo_loss": reward_loss.detach()}
    if regularizer.is_active:
        weights_N = token_weights(Tokens.of(loss_mask_BT), batch.loss_agg_mode, batch.all_counts)
        ref_log_probs_N = None if batch.ref_log_prob is None else batch.ref_log_prob[loss_mask_BT]
        penalty, more = regularizer(student_stats, ref_log_probs_N, weights_N)
        loss, metrics = loss + penalty, metrics | more
    return loss, metrics


def _compare(
    batch: MicroBatch,
    student: Model,
    teacher: Teacher,
    head: Head,
    compare: Compare,
    loss_mask_BT: torch.Tensor,
    distill_mask_BT: torch.Tensor,
    teaches: bool,
) -> tuple[TokenStatistics, Comparison | None]:
    """Return student statistics at the loss mask, and their comparison with the teacher's at the distill mask.

    The model whose top-k is the support runs first, and the other is read at those tokens.
    """
    rows, rows_mask_BT = batch.student_rows.only(loss_mask_BT)
    if not teaches:
        return student.run(rows, rows_mask_BT, replace(head, support=SAMPLED_TOKEN)), None
    is_distilled_N = distill_mask_BT[loss_mask_BT]
    teacher_inputs = batch.teacher_rows.only(distill_mask_BT)
    teacher_head = replace(
        head, token_ids=batch.token_ids[distill_mask_BT], support_indices=None, entropy_has_gradient=False
    )
    if compares_by_chunks(head, head.support):
        with torch.no_grad():
            logits = teacher.logits(*teacher_inputs)
        comparing = ComparingHead(head, teacher_head, logits, is_distilled_N, compare)
        comparison = student.run(rows, rows_mask_BT, comparing)
        return comparison.student, comparison._replace(student=comparison.student.at(is_distilled_N))

    def run_student(head: Head) -> tuple[TokenStatistics, TokenStatistics]:
        """Return its statistics at the loss mask, and of these those at the distill mask."""
        stats = student.run(rows, rows_mask_BT, head)
        return stats, stats if loss_mask_BT is distill_mask_BT else stats.at(is_distilled_N)

    def at_teachers_topk(indices_MK: torch.Tensor) -> Head:
        """Return the student's head at the teacher's top-k; tokens that are not distilled have no support."""
        indices_NK = indices_MK.new_full((len(is_distilled_N), indices_MK.shape[-1]), NO_TOKEN)
        indices_NK[is_distilled_N] = indices_MK
        return replace(head, support_indices=indices_NK)

    if head.support.of == "teacher":
        with torch.no_grad():
            teacher_stats = teacher.statistics(*teacher_inputs, teacher_head)
        student_stats, compared = run_student(at_teachers_topk(teacher_stats.support_indices))
    elif head.support.of == "union":
        # The teacher's logits are kept and read twice, for its top-k and then at the union: one forward pass.
        with torch.no_grad():
            logits = teacher.logits(*teacher_inputs)
            topk = teacher_head.read(logits).support_indices
        student_stats, compared = run_student(replace(at_teachers_topk(topk), adds_own_topk=True))
        with torch.no_grad():
            teacher_stats = replace(teacher_head, support_indices=compared.support_indices).read(logits)
    else:
        student_stats, compared = run_student(head)
        with torch.no_grad():
            at_students_topk = replace(teacher_head, support_indices=compared.support_indices)
            teacher_stats = teacher.statistics(*teacher_inputs, at_students_topk)
    return student_stats, Comparison(compared, teacher_stats, *compare(compared, teacher_stats))


def _distill(
    batch: MicroBatch,
    objective: Objective,
    comparison: Comparison,
    tokens: Tokens,
    distill_mask_BT: torch.Tensor,
    share_B: torch.Tensor,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    denominators = batch.all_counts if objective.config.denominator == "all" else batch.context_counts
    row_weights_N = (share_B * batch.teacher_weights)[tokens.rows]
    weights_N = token_weights(tokens, batch.loss_agg_mode, denominators) * row_weights_N
    loss, reports = objective.weighted(comparison, tokens, weights_N)
    student, teacher = comparison.student, comparison.teacher
    reports |= {"student_entropy": student.entropy.detach(), "teacher_entropy": teacher.entropy}
    if batch.observer:
        batch.observer(distill_mask_BT, student, teacher, reports["kl"])
    means_N = token_weights(tokens, "token-mean", batch.context_counts)
    metrics = {f"self_distillation/{name}": (values * means_N).sum() for name, values in reports.items()}
    return loss, {"actor/pg_loss": loss.detach(), **metrics}


def _reinforce(
    batch: MicroBatch, policy_loss: PolicyLoss, student: TokenStatistics, share_B: torch.Tensor
) -> torch.Tensor:
    """Return the GRPO loss on all response tokens.

    PPO's loss is positively homogeneous in its advantages, so that these can carry the weights.
    """
    assert batch.advantages is not None and batch.reward_weights is not None, "both are made before the update"
    tokens = Tokens.of(
        batch.response_mask, old_log_probs=batch.old_log_probs, rollout_is_weights=batch.rollout_is_weights
    )
    row_weights_N = (share_B * batch.reward_weights)[tokens.rows]
    weights_N = token_weights(tokens, batch.loss_agg_mode, batch.all_counts) * row_weights_N
    advantages_N = batch.advantages[batch.response_mask] * weights_N.to(batch.advantages.dtype)
    return policy_loss(tokens.old_log_probs, student.log_probs, advantages_N, tokens.rollout_is_weights)
