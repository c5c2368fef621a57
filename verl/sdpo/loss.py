"""The loss by the authors' call signature: padded tensors of a whole batch in, one loss and its metrics out.

The training step calls the objective itself (micro_step.py); this wrapper is for comparisons with the authors' code.
"""

from dataclasses import replace

import torch

from verl.sdpo.config import SelfDistillationConfig
from verl.sdpo.head import TokenStatistics
from verl.sdpo.objective import Denominators, Objective, Tokens, token_weights


def compute_self_distillation_loss(
    student_log_probs: torch.Tensor,
    teacher_log_probs: torch.Tensor,
    response_mask: torch.Tensor,
    self_distillation_config: SelfDistillationConfig,
    old_log_probs: torch.Tensor | None = None,
    student_all_log_probs: torch.Tensor | None = None,
    teacher_all_log_probs: torch.Tensor | None = None,
    student_topk_log_probs: torch.Tensor | None = None,
    teacher_topk_log_probs: torch.Tensor | None = None,
    self_distillation_mask: torch.Tensor | None = None,
    loss_agg_mode: str = "token-mean",
    rollout_is_weights: torch.Tensor | None = None,
    *,
    batch_num_tokens: float | None = None,
    global_batch_size: float | None = None,
    dp_size: int = 1,
    loss_scale_factor: float | None = None,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the SDPO loss (arXiv 2601.20802) and its metrics, by the objective of the configuration (objective.py).

    Args:
        student_log_probs, teacher_log_probs, old_log_probs, rollout_is_weights: (B, T), of the sampled tokens.
        student_all_log_probs, teacher_all_log_probs: (B, T, V), needed when `distillation_topk` is None.
        student_topk_log_probs, teacher_topk_log_probs: (B, T, K), both at the same support: the *student's* top-k
            tokens, unless the key `support` says otherwise.
        response_mask: (B, T), 1 on tokens that the model wrote.
        self_distillation_mask: (B,), 1 on samples that have a teacher context; None: all.
        batch_num_tokens, global_batch_size: the counts that the loss is divided by, of the global mini-batch; None:
            this batch's, those with a teacher context or all, as `denominator` says.
        dp_size, loss_scale_factor: see `Denominators`; None: T.

    Returns:
        The loss, and metrics that are means over the distilled tokens: of the global mini-batch, so that they add up
        over micro-batches too, but with `denominator: all` of this batch.
        Tokens outside the mask contribute exactly zero to value and gradient.

    Raises:
        ValueError: on inputs that the objective needs and did not get, or when a rank among several leaves the counts
            of the global mini-batch to be guessed.
    """
    objective = self_distillation_config.objective
    response_mask_BT = distill_mask_BT = response_mask.bool()
    if self_distillation_mask is not None:
        distill_mask_BT = distill_mask_BT & self_distillation_mask.bool().unsqueeze(-1)
    if dp_size > 1 and (batch_num_tokens is None or global_batch_size is None):
        raise ValueError(
            f"dp_size={dp_size}: pass the counts of the global mini-batch, batch_num_tokens and global_batch_size."
        )
    tokens = Tokens.of(distill_mask_BT, old_log_probs=old_log_probs, rollout_is_weights=rollout_is_weights)
    student, teacher = (
        TokenStatistics(
            *(
                None if values is None else values[distill_mask_BT]
                for values in (log_probs, torch.zeros_like(log_probs), every, topk)
            )
        )
        for log_probs, every, topk in (
            (student_log_probs, student_all_log_probs, student_topk_log_probs),
            (teacher_log_probs, teacher_all_log_probs, teacher_topk_log_probs),
        )
    )
    _check(objective, student, teacher)

    counted_BT = response_mask_BT if objective.config.denominator == "all" else distill_mask_BT
    denominators = Denominators(
        tokens=counted_BT.sum() if batch_num_tokens is None else batch_num_tokens,
        sequences=counted_BT.any(-1).sum() if global_batch_size is None else global_batch_size,
        dp_size=dp_size,
        loss_scale_factor=loss_scale_factor or response_mask.shape[-1],
    )
    loss, reports = objective(student, teacher, tokens, token_weights(tokens, loss_agg_mode, denominators))
    if objective.config.denominator == "all":
        denominators = replace(denominators, tokens=distill_mask_BT.sum())
    means = token_weights(tokens, "token-mean", denominators)
    metrics = {f"self_distillation/{name}": (values * means).sum().item() for name, values in reports.items()}
    return loss, metrics


def _check(objective: Objective, student: TokenStatistics, teacher: TokenStatistics) -> None:
    if getattr(objective.config, "policy_clip", None) or objective.config.teacher_entropy_beta:
        raise ValueError("policy_clip and teacher_entropy_beta need inputs that this function lacks: use micro_step.")
    support = objective.support
    if support.is_whole and (student.all_log_probs is None or teacher.all_log_probs is None):
        raise ValueError(
            "distillation_topk=None compares full vocabularies: pass student_all_log_probs and teacher_all_log_probs."
        )
    if support.k and (student.support_log_probs is None or teacher.support_log_probs is None):
        raise ValueError(f"distillation_topk={support.k}: pass student_topk_log_probs and teacher_topk_log_probs.")
