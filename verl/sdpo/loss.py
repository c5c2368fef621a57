"""The mathematics of SDPO: tensors in, tensors out (arXiv 2601.20802).

Shapes: `B` sequences, `T` response tokens, `N` tokens of a flat batch, `K` compared tokens, `V` vocabulary.
Log-probabilities are natural logarithms of distributions over the *whole* vocabulary at the rollout temperature.
The student's tensors carry gradient, the teacher's never do (they are detached here once more).
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F

# Largest log-mass that the top-k may hold before the tail is computed: log(1 - e^x) diverges at 0.
MAX_TOPK_LOG_MASS = -1e-7
MAX_ABS_LOG_RATIO = 20.0
# Rows of logits whose entropy is computed at once, so that no second (N, V) tensor is ever alive.
ENTROPY_CHUNK = 256


class LossSettings(Protocol):
    """The fields of `SelfDistillationConfig` that the loss reads."""

    full_logit_distillation: bool
    alpha: float
    distillation_topk: int | None
    distillation_add_tail: bool
    is_clip: float | None


@dataclass(frozen=True)
class TokenStatistics:
    """What the loss needs of one model's logits at N positions."""

    log_probs: torch.Tensor  # (N,), of the token that was sampled
    entropy: torch.Tensor  # (N,), nats, without gradient
    all_log_probs: torch.Tensor | None = None  # (N, V)
    topk_log_probs: torch.Tensor | None = None  # (N, K)
    topk_indices: torch.Tensor | None = None  # (N, K)


def token_statistics(
    logits: torch.Tensor,
    token_ids: torch.Tensor,
    *,
    settings: LossSettings,
    topk_indices: torch.Tensor | None = None,
) -> TokenStatistics:
    """Reduce logits to what `compute_self_distillation_loss` compares.

    Args:
        logits: (N, V), already divided by the temperature; any floating dtype, reduced in at least float32.
        token_ids: (N,), the sampled tokens.
        settings: decides between full vocabulary, top-k and the sampled token alone.
        topk_indices: (N, K), where to read a teacher: the student's top-k. None: the top-k of these logits.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    log_normalizer = torch.logsumexp(logits, dim=-1, keepdim=True)
    sampled = logits.gather(-1, token_ids.unsqueeze(-1)).sub(log_normalizer).squeeze(-1)
    entropy = _entropy(logits.detach(), log_normalizer.detach())
    if not settings.full_logit_distillation:
        return TokenStatistics(sampled, entropy)
    if settings.distillation_topk is None:
        return TokenStatistics(sampled, entropy, all_log_probs=logits - log_normalizer)
    if topk_indices is None:
        topk_indices = logits.detach().topk(min(settings.distillation_topk, logits.shape[-1]), dim=-1).indices
    topk = logits.gather(-1, topk_indices) - log_normalizer
    return TokenStatistics(sampled, entropy, topk_log_probs=topk, topk_indices=topk_indices)


def _entropy(logits: torch.Tensor, log_normalizer: torch.Tensor) -> torch.Tensor:
    """Entropy in nats, (N,), of softmax(logits)."""
    chunks = zip(logits.split(ENTROPY_CHUNK), log_normalizer.split(ENTROPY_CHUNK), strict=True)
    return torch.cat([(z.squeeze(-1) - ((x - z).exp() * x).sum(-1)) for x, z in chunks])


def mix_in_log_space(reference_logits: torch.Tensor, student_logits: torch.Tensor, rate: float) -> torch.Tensor:
    """Logits of the trust-region teacher: the normalised geometric mix p_ref^(1-rate) * p_student^rate, (N, V)."""
    return torch.lerp(reference_logits.float(), student_logits.float(), rate)


def add_tail(log_probs: torch.Tensor) -> torch.Tensor:
    """Append the log-probability of everything outside the top-k: (..., K) -> (..., K + 1)."""
    mass = torch.logsumexp(log_probs, dim=-1, keepdim=True).clamp(max=MAX_TOPK_LOG_MASS)
    return torch.cat([log_probs, torch.log(-torch.expm1(mass))], dim=-1)


def kl_divergence(p_log: torch.Tensor, q_log: torch.Tensor) -> torch.Tensor:
    """KL(p || q) in nats over the last axis."""
    return (p_log.exp() * (p_log - q_log)).sum(-1)


def divergence(student_log: torch.Tensor, teacher_log: torch.Tensor, alpha: float) -> torch.Tensor:
    """Divergence per token, (..., K) -> (...), in nats.

    alpha 0: KL(teacher || student). alpha 1: KL(student || teacher). Between, with m = (1-alpha) student + alpha
    teacher: (1-alpha) KL(student || m) + alpha KL(teacher || m), which is *not* continuous at the ends (it vanishes
    there), so the ends are their own cases, as in the authors' code.
    """
    if alpha == 0.0:
        return kl_divergence(teacher_log, student_log)
    if alpha == 1.0:
        return kl_divergence(student_log, teacher_log)
    mixture = torch.logaddexp(student_log + math.log1p(-alpha), teacher_log + math.log(alpha))
    return (1 - alpha) * kl_divergence(student_log, mixture) + alpha * kl_divergence(teacher_log, mixture)


def aggregate(
    per_token: torch.Tensor,
    mask: torch.Tensor,
    *,
    loss_agg_mode: str,
    batch_num_tokens: float | None = None,
    global_batch_size: float | None = None,
    dp_size: int = 1,
    loss_scale_factor: float | None = None,
) -> torch.Tensor:
    """Sum a (B, T) loss into a scalar whose denominator belongs to the *global* mini-batch.

    The parts of all micro-batches add up, and data-parallel ranks average, to the loss of the whole mini-batch. A part
    without a single unmasked token is exactly zero.

    Args:
        per_token: (B, T). mask: (B, T), 1 where a token counts.
        batch_num_tokens: unmasked tokens of the global mini-batch; None: of `mask`.
        global_batch_size: sequences with an unmasked token in the global mini-batch; None: of `mask`.
        dp_size: data-parallel ranks, whose gradients FSDP averages.
        loss_scale_factor: tokens that `seq-mean-token-sum-norm` divides by; None: T.

    Raises:
        ValueError: on an unknown mode, or when a rank among several leaves the global count to be guessed.
    """
    count = batch_num_tokens if loss_agg_mode == "token-mean" else global_batch_size
    if dp_size > 1 and count is None and loss_agg_mode != "token-sum":
        raise ValueError(
            f"loss_agg_mode={loss_agg_mode!r} with dp_size={dp_size}: pass the counts of the global mini-batch, "
            "batch_num_tokens or global_batch_size."
        )
    mask = mask.to(per_token.dtype)
    token_sums = (per_token * mask).sum(-1)
    token_counts = mask.sum(-1)
    if loss_agg_mode.startswith("token-"):
        total = token_sums.sum()
        if loss_agg_mode == "token-sum":
            return total * dp_size
        if loss_agg_mode == "token-mean":
            tokens = token_counts.sum() if batch_num_tokens is None else batch_num_tokens
            return total / max(float(tokens), 1.0) * dp_size
    sequences = (token_counts > 0).sum() if global_batch_size is None else global_batch_size
    sequences = max(float(sequences), 1.0)
    if loss_agg_mode == "seq-mean-token-mean":
        return (token_sums / token_counts.clamp(min=1)).sum() / sequences * dp_size
    if loss_agg_mode == "seq-mean-token-sum":
        return token_sums.sum() / sequences * dp_size
    if loss_agg_mode == "seq-mean-token-sum-norm":
        return token_sums.sum() / sequences / (loss_scale_factor or mask.shape[-1]) * dp_size
    raise ValueError(
        f"loss_agg_mode={loss_agg_mode!r}: expected token-mean, token-sum, seq-mean-token-sum, seq-mean-token-mean or "
        "seq-mean-token-sum-norm."
    )


def compute_self_distillation_loss(
    student_log_probs: torch.Tensor,
    teacher_log_probs: torch.Tensor,
    response_mask: torch.Tensor,
    self_distillation_config: LossSettings,
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
    """The SDPO loss (arXiv 2601.20802, the logit-level objective and its top-k form; call signature of the authors).

    Equals `sum_t w_t D(student_t, teacher_t) mask_t / tokens`, where D is `divergence` over the full vocabulary, over
    the student's top-k plus a tail bucket, or over the renormalised top-k; without full-logit distillation it is the
    sampled-token estimator `stopgrad(log s - log t) log s` of the reverse KL. `w_t` is the importance ratio
    `stopgrad(min(pi / pi_old, is_clip))` times the rollout weight.

    Args:
        student_log_probs, teacher_log_probs, old_log_probs, rollout_is_weights: (B, T), of the sampled tokens.
        student_all_log_probs, teacher_all_log_probs: (B, T, V), needed when `distillation_topk` is None.
        student_topk_log_probs, teacher_topk_log_probs: (B, T, K), at the *student's* top-k tokens.
        response_mask: (B, T), 1 on tokens that the model wrote.
        self_distillation_mask: (B,), 1 on samples whose teacher saw something; None: all.
        batch_num_tokens, global_batch_size, dp_size, loss_scale_factor: see `aggregate`.

    Returns:
        The loss, and metrics normalised like a `token-mean` loss, so that they add up over micro-batches too.
        Tokens outside the mask contribute exactly zero to value and gradient, provided their entries are finite.

    Raises:
        ValueError: on inputs that the chosen mode needs and did not get.
    """
    config = self_distillation_config
    mask = response_mask
    if self_distillation_mask is not None:
        mask = mask * self_distillation_mask.unsqueeze(-1)
    tail_mass = None
    if config.full_logit_distillation:
        student, teacher = _compared_distributions(
            config, student_all_log_probs, teacher_all_log_probs, student_topk_log_probs, teacher_topk_log_probs
        )
        per_token = divergence(student, teacher, config.alpha)
        reverse_kl = kl_divergence(student.detach(), teacher)
        if student_topk_log_probs is not None:
            tail_mass = 1 - student_topk_log_probs.detach().exp().sum(-1)
    else:
        if config.alpha != 1.0:
            raise ValueError(f"alpha={config.alpha}: the sampled token only estimates the reverse KL, set alpha=1.0.")
        log_ratio = (student_log_probs - teacher_log_probs).detach()
        per_token = log_ratio * student_log_probs
        reverse_kl = log_ratio

    clipped = torch.zeros_like(per_token)
    if config.is_clip is not None and old_log_probs is not None:
        log_ratio = (student_log_probs.detach() - old_log_probs).clamp(-MAX_ABS_LOG_RATIO, MAX_ABS_LOG_RATIO)
        ratio = log_ratio.exp()
        clipped = (ratio > config.is_clip).to(per_token.dtype)
        per_token = per_token * ratio.clamp(max=config.is_clip)
    if rollout_is_weights is not None:
        per_token = per_token * rollout_is_weights

    loss = aggregate(
        per_token,
        mask,
        loss_agg_mode=loss_agg_mode,
        batch_num_tokens=batch_num_tokens,
        global_batch_size=global_batch_size,
        dp_size=dp_size,
        loss_scale_factor=loss_scale_factor,
    )
    token_means = {"kl": reverse_kl, "is_clip_fraction": clipped, "tail_mass": tail_mass}
    metrics = {
        f"self_distillation/{name}": aggregate(
            value, mask, loss_agg_mode="token-mean", batch_num_tokens=batch_num_tokens, dp_size=dp_size
        ).item()
        for name, value in token_means.items()
        if value is not None
    }
    return loss, metrics


def _compared_distributions(
    config: LossSettings,
    student_all: torch.Tensor | None,
    teacher_all: torch.Tensor | None,
    student_topk: torch.Tensor | None,
    teacher_topk: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Student and (detached) teacher over the same outcomes, (B, T, K) log-probabilities that sum to one."""
    if config.distillation_topk is None:
        if student_all is None or teacher_all is None:
            raise ValueError(
                "distillation_topk=None compares full vocabularies: pass student_all_log_probs and "
                "teacher_all_log_probs."
            )
        return student_all, teacher_all.detach()
    if student_topk is None or teacher_topk is None:
        raise ValueError(
            f"distillation_topk={config.distillation_topk}: pass student_topk_log_probs and teacher_topk_log_probs."
        )
    if config.distillation_add_tail:
        return add_tail(student_topk), add_tail(teacher_topk.detach())
    return F.log_softmax(student_topk, dim=-1), F.log_softmax(teacher_topk.detach(), dim=-1)
