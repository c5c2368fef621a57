"""One micro-batch: which tokens count, what the student says of them, what the teacher says, the loss.

Shapes: `B` sequences of the micro-batch, `T` response tokens of its longest response, `N` response tokens that are
compared. Everything that knows of FSDP, of packing and of ranks stands behind `Model` (engine/distillation_engine.py).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from verl.sdpo.comparison import Compare, ComparingHead
from verl.sdpo.head import SAMPLED_TOKEN, EagerHead, TokenStatistics
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
    """(N,) log-probabilities of model and reference -> (N,), verl's."""

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


# Tokens that an observer is shown of each model at every position, besides the sampled one.
ALTERNATIVES = 3

Observer = Callable[[torch.Tensor, TokenStatistics, TokenStatistics, torch.Tensor], None]
"""(B, T) bool, which tokens are distilled; what student and teacher say of these N tokens, with the `ALTERNATIVES` that
each holds most likely; (N,) the reverse KL over what the objective compares."""


@dataclass(frozen=True)
class MicroBatch:
    student_rows: Rows
    teacher_rows: Rows
    token_ids: torch.Tensor
    """(B, T), the responses, padded."""
    response_mask: torch.Tensor
    """(B, T) bool, true on tokens that the model wrote."""
    teacher_weights: torch.Tensor
    """(B,), how much the row's question counts; 0: its teacher knows nothing."""
    temperature: float
    loss_agg_mode: str
    with_target: Denominators
    """Of the global mini-batch's tokens and sequences that have a target."""
    of_all: Denominators
    """Of all its tokens and sequences."""
    old_log_probs: torch.Tensor | None = None
    """(B, T), of the policy at the beginning of the training step."""
    old_topk_indices: torch.Tensor | None = None
    """(B, T, K), that policy's most likely tokens."""
    old_topk_log_probs: torch.Tensor | None = None
    """(B, T, K)."""
    advantages: torch.Tensor | None = None
    """(B, T), of the reward, verl's."""
    reward_weights: torch.Tensor | None = None
    """(B,), 0 where the reward says nothing: what could not be graded."""
    rollout_is_weights: torch.Tensor | None = None
    """(B, T)."""
    ref_log_prob: torch.Tensor | None = None
    """(B, T), of the fixed reference of the KL penalty."""
    observer: Observer | None = None
    """Somebody who looks on."""

    @property
    def targets(self) -> torch.Tensor:
        """(B,) bool, whether the row's teacher knows something."""
        return self.teacher_weights > 0


def reads_every_row(regularizer: Regularizer, routing: Routing) -> bool:
    """Whether rows without a target have a loss too."""
    return regularizer.is_active or routing.reads_rewards


PolicyLoss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
"""(N,) old log-probabilities, log-probabilities, weighted advantages, rollout weights -> verl's PPO losses, summed."""


def micro_step(
    batch: MicroBatch,
    *,
    student: Model,
    teacher: Teacher,
    objective: Objective,
    routing: Routing,
    head_kind: type[EagerHead],
    policy_loss: PolicyLoss,
    regularizer: Regularizer,
    teaches: bool,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and metrics of one micro-batch; both add up over micro-batches and average over ranks.

    Args:
        teaches: whether any rank has a target in it. All ranks run the same forwards, with or without targets of their
            own, so that FSDP's collectives match; where none has one, all skip the teacher.
    """
    distilled_BT = batch.response_mask & batch.targets.unsqueeze(-1)
    reads_all = reads_every_row(regularizer, routing)
    wanted_BT = batch.response_mask if reads_all else distilled_BT
    head = head_kind(
        batch.token_ids[wanted_BT],
        objective.outcomes,
        temperature=batch.temperature,
        topk_indices=None if batch.old_topk_indices is None else batch.old_topk_indices[wanted_BT],
        entropy_has_gradient=regularizer.entropy_coeff != 0,
        best=ALTERNATIVES if batch.observer else 0,
    )
    tokens = Tokens.of(
        distilled_BT,
        old_log_probs=batch.old_log_probs,
        rollout_is_weights=batch.rollout_is_weights,
        old_topk_log_probs=batch.old_topk_log_probs,
    )
    compare = partial(objective.compare, tokens=tokens)
    ours, comparison = _compare(batch, student, teacher, head, compare, wanted_BT, distilled_BT, teaches)
    # Attached to the graph: the backward pass of a micro-batch without targets has collectives too.
    loss = ours.log_probs.sum() * 0.0
    # In every mini-batch: verl averages over those that have it.
    metrics = {"actor/pg_loss": loss.detach()}
    teacher_share, reward_share = routing.shares(batch.targets)
    if comparison:
        loss, metrics = _distill(batch, objective, comparison, tokens, distilled_BT, teacher_share)
    if routing.reads_rewards:
        reward_loss = _reinforce(batch, policy_loss, ours, reward_share)
        loss, metrics = loss + reward_loss, metrics | {"actor/grpo_loss": reward_loss.detach()}
    if regularizer.is_active:
        weights_N = token_weights(Tokens.of(wanted_BT), batch.loss_agg_mode, batch.of_all)
        ref_log_probs_N = None if batch.ref_log_prob is None else batch.ref_log_prob[wanted_BT]
        penalty, more = regularizer(ours, ref_log_probs_N, weights_N)
        loss, metrics = loss + penalty, metrics | more
    return loss, metrics


def _compare(
    batch: MicroBatch,
    student: Model,
    teacher: Teacher,
    head: EagerHead,
    compare: Compare,
    wanted_BT: torch.Tensor,
    distilled_BT: torch.Tensor,
    teaches: bool,
) -> tuple[TokenStatistics, Comparison | None]:
    """The student's statistics at wanted tokens, and their comparison with the teacher's at distilled ones."""
    rows, rows_wanted_BT = batch.student_rows.only(wanted_BT)
    if not teaches:
        return student.run(rows, rows_wanted_BT, replace(head, outcomes=SAMPLED_TOKEN)), None
    distilled_N, theirs_wanted = distilled_BT[wanted_BT], batch.teacher_rows.only(distilled_BT)
    at_teacher = replace(head, token_ids=batch.token_ids[distilled_BT], entropy_has_gradient=False)
    if head.outcomes.all and head.by_chunks:
        # The teacher runs first: whole distributions meet at the student's head, some tokens at a time.
        with torch.no_grad():
            logits = teacher.logits(*theirs_wanted)
        comparison = student.run(rows, rows_wanted_BT, ComparingHead(head, at_teacher, logits, distilled_N, compare))
        return comparison.student, comparison._replace(student=comparison.student.at(distilled_N))
    ours = student.run(rows, rows_wanted_BT, head)
    compared = ours if wanted_BT is distilled_BT else ours.at(distilled_N)
    with torch.no_grad():
        theirs = teacher.statistics(*theirs_wanted, replace(at_teacher, topk_indices=compared.topk_indices))
    return ours, Comparison(compared, theirs, *compare(compared, theirs))


def _distill(
    batch: MicroBatch,
    objective: Objective,
    comparison: Comparison,
    tokens: Tokens,
    distilled_BT: torch.Tensor,
    share_B: torch.Tensor,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    denominators = batch.of_all if objective.config.denominator == "all" else batch.with_target
    of_rows = (share_B * batch.teacher_weights)[tokens.rows]
    weights_N = token_weights(tokens, batch.loss_agg_mode, denominators) * of_rows
    loss, reports = objective.weighted(comparison, tokens, weights_N)
    student, teacher = comparison.student, comparison.teacher
    reports |= {"student_entropy": student.entropy.detach(), "teacher_entropy": teacher.entropy}
    if batch.observer:
        batch.observer(distilled_BT, student, teacher, reports["kl"])
    means_N = token_weights(tokens, "token-mean", batch.with_target)
    metrics = {f"self_distillation/{name}": (values * means_N).sum() for name, values in reports.items()}
    return loss, {"actor/pg_loss": loss.detach(), **metrics}


def _reinforce(
    batch: MicroBatch, policy_loss: PolicyLoss, student: TokenStatistics, share_B: torch.Tensor
) -> torch.Tensor:
    """GRPO on all response tokens. PPO's loss grows with its advantages, so that these can carry the weights."""
    assert batch.advantages is not None and batch.reward_weights is not None, "both are made before the update"
    tokens = Tokens.of(
        batch.response_mask, old_log_probs=batch.old_log_probs, rollout_is_weights=batch.rollout_is_weights
    )
    of_rows = (share_B * batch.reward_weights)[tokens.rows]
    weights_N = token_weights(tokens, batch.loss_agg_mode, batch.of_all) * of_rows
    advantages_N = batch.advantages[batch.response_mask] * weights_N.to(batch.advantages.dtype)
    return policy_loss(tokens.old_log_probs, student.log_probs, advantages_N, tokens.rollout_is_weights)
