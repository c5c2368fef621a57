"""Objectives: statistics of student and teacher at N tokens in, one loss out (arXiv 2601.20802).

Shapes: `B` sequences of a micro-batch, `N` tokens of its distill mask, flat, `K` tokens of the support, `V` vocabulary.
The student's tensors carry gradient, the teacher's never do (they are detached here once more). docs/algorithm.md maps
the paper's equations to classes, and shows how to add one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, NamedTuple, TypeVar

import torch
import torch.nn.functional as F

from verl.sdpo.checks import BLOCK, is_number, is_positive_int, require, require_bool, require_choice, require_fraction
from verl.sdpo.head import SAMPLED_TOKEN, SUPPORTS, Support, TokenStatistics

# Largest log-mass that the support may hold before the tail is computed: log(1 - e^x) diverges at 0.
MAX_TOPK_LOG_MASS = -1e-7
MAX_ABS_LOG_RATIO = 20.0
LOSS_AGG_MODES = ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")
DENOMINATORS = ("targets", "all")

# Weights of tokens and sequences


@dataclass(frozen=True)
class Denominators:
    """Counts of the *global* mini-batch, which the losses of all micro-batches and ranks are divided by."""

    tokens: float
    sequences: float
    dp_size: int = 1
    """Number of data-parallel ranks, whose gradients FSDP averages."""
    loss_scale_factor: float | None = None
    """Number of tokens that `seq-mean-token-sum-norm` divides by."""


@dataclass(frozen=True)
class Tokens:
    """N tokens of a micro-batch: their sequences, and their log-probabilities and weights from the rollout."""

    rows: torch.Tensor
    """(N,), index of each token's sequence."""
    row_lens: torch.Tensor
    """(B,), number of the N tokens in each sequence."""
    old_log_probs: torch.Tensor | None = None
    """(N,), by the policy at the beginning of the training step."""
    rollout_is_weights: torch.Tensor | None = None
    """(N,), truncated importance weights of the trainer against the inference engine."""
    old_topk_log_probs: torch.Tensor | None = None
    """(N, K), that policy's at its own top-k, which is then the support of student and teacher."""

    @classmethod
    def of(cls, mask_BT: torch.Tensor, **values_BT: torch.Tensor | None) -> "Tokens":
        """Select the tokens where `mask_BT` (bool) is true, row by row."""
        flat = {name: None if values is None else values[mask_BT] for name, values in values_BT.items()}
        return cls(mask_BT.nonzero()[:, 0], mask_BT.sum(-1), **flat)

    def row_means(self, values: torch.Tensor) -> torch.Tensor:
        """Return (N,) means of (N,) values, each over the tokens of the same sequence."""
        # Not `index_add`, whose order of additions varies on a GPU.
        sums = torch.segment_reduce(values, "sum", lengths=self.row_lens, unsafe=True)
        return (sums / self.row_lens)[self.rows]


def token_weights(tokens: Tokens, loss_agg_mode: str, denominators: Denominators) -> torch.Tensor:
    """Return the weight, (N,), of each token's loss in the loss of the global mini-batch.

    Every aggregation of verl (`agg_loss`, verl/trainer/ppo/core_algos.py) is `sum_t weight_t loss_t`, with, up to the
    factor `dp_size`: token-mean 1/tokens, token-sum 1, seq-mean-token-sum 1/sequences, seq-mean-token-mean
    1/(sequences * tokens of its sequence), seq-mean-token-sum-norm 1/(sequences * loss_scale_factor). So the parts of
    all micro-batches add up, and data-parallel ranks average, to the loss of the whole mini-batch.

    Raises:
        ValueError: on an unknown mode, or when `seq-mean-token-sum-norm` has nothing to divide by.
    """
    per_sequence = denominators.dp_size / max(float(denominators.sequences), 1.0)
    constant = {
        "token-mean": denominators.dp_size / max(float(denominators.tokens), 1.0),
        "token-sum": float(denominators.dp_size),
        "seq-mean-token-sum": per_sequence,
    }
    if loss_agg_mode == "seq-mean-token-sum-norm":
        if not denominators.loss_scale_factor:
            raise ValueError(f"loss_agg_mode={loss_agg_mode} with loss_scale_factor={denominators.loss_scale_factor}.")
        constant[loss_agg_mode] = per_sequence / denominators.loss_scale_factor
    if loss_agg_mode in constant:
        return torch.full_like(tokens.rows, constant[loss_agg_mode], dtype=torch.float64)
    if loss_agg_mode == "seq-mean-token-mean":
        return per_sequence / tokens.row_lens[tokens.rows].double()
    raise ValueError(f"loss_agg_mode={loss_agg_mode!r}: expected one of {', '.join(LOSS_AGG_MODES)}.")


# Divergences


def add_tail(log_probs: torch.Tensor) -> torch.Tensor:
    """Append the log-probability of everything outside the support, (..., K) -> (..., K + 1) (App. A.3, Eq. 11)."""
    mass = torch.logsumexp(log_probs, dim=-1, keepdim=True).clamp(max=MAX_TOPK_LOG_MASS)
    return torch.cat([log_probs, torch.log(-torch.expm1(mass))], dim=-1)


def kl_divergence(p_log: torch.Tensor, q_log: torch.Tensor) -> torch.Tensor:
    """Return KL(p || q) in nats over the last axis."""
    return (p_log.exp() * (p_log - q_log)).sum(-1)


def divergence(student_log: torch.Tensor, teacher_log: torch.Tensor, alpha: float) -> torch.Tensor:
    """Return the divergence per token, (..., K) -> (...), in nats.

    alpha 0: KL(teacher || student). alpha 1: KL(student || teacher), Eq. 1. Between, with m = (1-alpha) student +
    alpha teacher: (1-alpha) KL(student || m) + alpha KL(teacher || m), which is *not* continuous at the ends (it
    vanishes there), so the ends are their own cases, as in the authors' code.
    """
    if alpha == 0.0:
        return kl_divergence(teacher_log, student_log)
    if alpha == 1.0:
        return kl_divergence(student_log, teacher_log)
    mixture = torch.logaddexp(student_log + math.log1p(-alpha), teacher_log + math.log(alpha))
    return (1 - alpha) * kl_divergence(student_log, mixture) + alpha * kl_divergence(teacher_log, mixture)


# Objectives


@dataclass(frozen=True)
class ObjectiveConfig:
    """Keys of every objective."""

    alpha: float = 0.5
    """0.0: forward KL(teacher || student); 1.0: reverse KL(student || teacher); between: generalised JSD."""

    is_clip: float | None = 2.0
    """Upper bound of the importance ratio pi / pi_old that weighs each token; null: no weight."""

    denominator: str = "targets"
    """Divisor of `actor.loss_agg_mode`. targets: the tokens or sequences that have a teacher context; all: all of the
    mini-batch. The published numbers, GRPO's too, were made with seq-mean-token-mean and all."""

    teacher_entropy_beta: float = 0.0
    """Weight exp(-beta H_teacher) of each token, with mean one over each response, so that tokens with a confident
    teacher count more (SRPO, arXiv 2604.02288, which takes 1.0). 0.0: all alike."""

    def __post_init__(self):
        require_fraction("alpha", self.alpha)
        require("is_clip", self.is_clip, lambda v: v is None or (is_number(v) and v > 0), "a number > 0, or null")
        require_choice("denominator", self.denominator, DENOMINATORS)
        require("teacher_entropy_beta", self.teacher_entropy_beta, lambda v: is_number(v) and v >= 0, "a number >= 0")


@dataclass(frozen=True)
class TailConfig(ObjectiveConfig):
    distillation_add_tail: bool = True
    """Lump the probability outside the support into one extra bucket. False leaves it out: a divergence is
    renormalised over the support, advantages keep their probabilities."""

    def __post_init__(self):
        super().__post_init__()
        require_bool("distillation_add_tail", self.distillation_add_tail)


@dataclass(frozen=True)
class TopkConfig(TailConfig):
    distillation_topk: int | None = 100
    """Number of most likely tokens that are compared; null compares the full vocabulary."""

    support: str = "student"
    """The model whose `distillation_topk` most likely tokens are compared. student: as the authors; teacher; union: the
    tokens of both, each once."""

    def __post_init__(self):
        super().__post_init__()
        require(
            "distillation_topk",
            self.distillation_topk,
            lambda v: v is None or is_positive_int(v),
            "a whole number >= 1, or null for the full vocabulary",
        )
        require_choice("support", self.support, SUPPORTS)
        if self.distillation_topk is None and self.support != "student":
            raise ValueError(
                f"{BLOCK}.support={self.support} with {BLOCK}.distillation_topk=null: the full vocabulary is compared, "
                "whoever's top-k is named. Set distillation_topk, or leave support out."
            )


class Comparison(NamedTuple):
    """Student and teacher statistics at N tokens, with the losses that an objective made of them."""

    student: TokenStatistics
    teacher: TokenStatistics
    losses: torch.Tensor
    """(N,)."""
    reports: dict[str, torch.Tensor]
    """(N,) each, without gradient."""


AnyConfig = TypeVar("AnyConfig", bound=ObjectiveConfig)


class Objective(Generic[AnyConfig]):
    """One way to compare student and teacher, token by token."""

    Config: ClassVar[type[ObjectiveConfig]]

    def __init__(self, config: AnyConfig):
        self.config = config

    @property
    def support(self) -> Support:
        """The tokens at which both models are read, besides the sampled one."""
        raise NotImplementedError

    @property
    def needs_old_topk(self) -> bool:
        """True if both models are read at the top-k of the policy before the training step, instead of a model's."""
        return False

    def compare(
        self, student: TokenStatistics, teacher: TokenStatistics, tokens: Tokens
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss per token, (N,), and reports, (N,) each: `kl`, the reverse KL, and others.

        With the whole vocabulary this is called for some tokens at a time, and must not read `tokens`, which has all.
        """
        raise NotImplementedError

    def weigh(self, student: TokenStatistics, teacher: TokenStatistics, tokens: Tokens) -> torch.Tensor | float:
        """Return a further weight of each token, (N,), without gradient."""
        if not self.config.teacher_entropy_beta:
            return 1.0
        sureness = (-self.config.teacher_entropy_beta * teacher.entropy).exp()
        return sureness / tokens.row_means(sureness)

    def __call__(
        self, student: TokenStatistics, teacher: TokenStatistics, tokens: Tokens, weights: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Compare two models and return the loss.

        Args:
            student, teacher: at the same N tokens, with the objective's `support`.
            weights: (N,), see `token_weights`.

        Returns:
            `sum_t weight_t w_t loss_t`, where w_t is the importance ratio stopgrad(min(pi / pi_old, is_clip)) times the
            rollout weight (App. A.4); and the reports of every token, (N,) each.
        """
        return self.weighted(Comparison(student, teacher, *self.compare(student, teacher, tokens)), tokens, weights)

    def weighted(
        self, comparison: Comparison, tokens: Tokens, weights: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return what `__call__` returns, from a finished comparison."""
        student, teacher, loss, reports = comparison
        reports = {**reports, "is_clip_fraction": torch.zeros_like(reports["kl"])}
        if student.support_log_probs is not None:
            reports["tail_mass"] = 1 - student.support_log_probs.detach().exp().sum(-1)
        if self.config.is_clip is not None and tokens.old_log_probs is not None:
            ratio = importance_ratio(student.log_probs.detach(), tokens.old_log_probs)
            reports["is_clip_fraction"] = (ratio > self.config.is_clip).to(loss.dtype)
            loss = loss * ratio.clamp(max=self.config.is_clip)
        if tokens.rollout_is_weights is not None:
            loss = loss * tokens.rollout_is_weights
        return (loss * self.weigh(student, teacher, tokens) * weights.to(loss.dtype)).sum(), reports


def importance_ratio(log_probs: torch.Tensor, old_log_probs: torch.Tensor) -> torch.Tensor:
    """Return pi / pi_old, bounded far beyond any clip so that it stays finite."""
    return (log_probs - old_log_probs).clamp(-MAX_ABS_LOG_RATIO, MAX_ABS_LOG_RATIO).exp()


class Divergence(Objective[TopkConfig]):
    """Logit level: a divergence of next-token distributions (Eq. 1), over all tokens or a top-k support."""

    @dataclass(frozen=True)
    class Config(TopkConfig):
        def __post_init__(self):
            super().__post_init__()
            if self.distillation_topk == 1 and not self.distillation_add_tail and self.support != "union":
                raise ValueError(
                    f"{BLOCK}.distillation_topk=1 with {BLOCK}.distillation_add_tail=False: one token, renormalised, "
                    "is certain to both models, so the loss is always zero. Set distillation_add_tail=True, or "
                    "credit=token."
                )

    @property
    def support(self) -> Support:
        return Support(self.config.distillation_topk, of=self.config.support)

    def compare(
        self, student: TokenStatistics, teacher: TokenStatistics, tokens: Tokens
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        student_log, teacher_log = self._distribution(student), self._distribution(teacher).detach()
        reports = {"kl": kl_divergence(student_log.detach(), teacher_log)}
        return divergence(student_log, teacher_log, self.config.alpha), reports

    def _distribution(self, statistics: TokenStatistics) -> torch.Tensor:
        """Return (N, V), (N, K + 1) or, without the tail, (N, K) log-probabilities, normalised to sum to one."""
        if self.support.is_whole:
            assert statistics.all_log_probs is not None
            return statistics.all_log_probs
        assert statistics.support_log_probs is not None
        if self.config.distillation_add_tail:
            return add_tail(statistics.support_log_probs)
        return F.log_softmax(statistics.support_log_probs, dim=-1)


# Advantages: the reverse KL's gradient as a policy gradient, where log(q/pi) is the advantage (§2.1, App. B.1)


def require_reverse_kl(alpha: float, credit: str) -> None:
    """Refuse any other divergence with a credit level that is a policy gradient.

    Raises:
        ValueError: naming `alpha` and the credit level.
    """
    if alpha != 1.0:
        raise ValueError(
            f"{BLOCK}.alpha={alpha} with credit {credit}: its advantages log(teacher / student) belong to the reverse "
            "KL and to no other divergence. Set alpha=1.0, or credit=logit with full_logit_distillation=True."
        )


class SampledToken(Objective[ObjectiveConfig]):
    """The sampled token alone: stopgrad(log s - log t) log s, an estimate of the reverse KL's gradient (Eq. 2)."""

    @dataclass(frozen=True)
    class Config(ObjectiveConfig):
        def __post_init__(self):
            super().__post_init__()
            require_reverse_kl(self.alpha, "sampled-token")

    @property
    def support(self) -> Support:
        return SAMPLED_TOKEN

    def compare(
        self, student: TokenStatistics, teacher: TokenStatistics, tokens: Tokens
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        log_ratio = (student.log_probs - teacher.log_probs).detach()
        return log_ratio * student.log_probs, {"kl": log_ratio}


@dataclass(frozen=True)
class AdvantageConfig(ObjectiveConfig):
    policy_clip: tuple[float, float] | None = None
    """[low, high]: PPO's clip of pi / pi_old to [1 - low, 1 + high], for every compared token on its own (Eq. 13);
    null: none."""

    advantage_clip: float | None = None
    """Upper bound of the advantages. The paper's runs at test time took 5.0 (a row of Table 12, without
    explanation); null: none."""

    def __post_init__(self):
        super().__post_init__()
        if self.policy_clip is not None:
            clip = self.policy_clip
            is_pair = isinstance(clip, Sequence) and not isinstance(clip, str) and len(clip) == 2
            require(
                "policy_clip",
                clip,
                lambda v: is_pair and all(is_number(bound) and bound > 0 for bound in v) and v[0] < 1,
                "[low, high] with 0 < low < 1 and 0 < high, or null",
            )
            if self.is_clip is not None:
                raise ValueError(
                    f"{BLOCK}.policy_clip={list(clip)} with {BLOCK}.is_clip={self.is_clip}: both weigh by pi / pi_old, "
                    "which would count twice. Set is_clip=null."
                )
        require(
            "advantage_clip",
            self.advantage_clip,
            lambda v: v is None or (is_number(v) and v > 0),
            "a number > 0, or null",
        )


AnyAdvantageConfig = TypeVar("AnyAdvantageConfig", bound=AdvantageConfig)


class Advantages(Objective[AnyAdvantageConfig]):
    """The policy-gradient form: -E[min(w A, clip(w) A)] with w = pi / pi_old and advantages A that have no gradient."""

    def clip_advantages(self, advantages: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Bound advantages from above, and return them with a bool mask of those that were bounded."""
        limit = self.config.advantage_clip
        if limit is None:
            return advantages, advantages.new_zeros((), dtype=torch.bool)
        return advantages.clamp(max=limit), advantages > limit

    def surrogate(
        self, log_probs: torch.Tensor, old_log_probs: torch.Tensor, advantages: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return -min(w A, clip(w) A), any shape, and a bool mask of where the clip removed the gradient."""
        ratio = importance_ratio(log_probs, old_log_probs)
        if self.config.policy_clip is None:
            return -ratio * advantages, advantages.new_zeros((), dtype=torch.bool)
        low, high = self.config.policy_clip
        free, clipped = ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages
        return -torch.minimum(free, clipped), clipped < free


@dataclass(frozen=True)
class BucketConfig(TailConfig, AdvantageConfig):
    """Keys of the objectives that give every bucket, a token of the support or the tail, an advantage of its own."""


AnyBucketConfig = TypeVar("AnyBucketConfig", bound=BucketConfig)


class BucketAdvantages(Advantages[AnyBucketConfig]):
    """Every bucket's advantage, weighted by its probability before the training step (Eq. 13).

    Without `policy_clip` the present policy stands for the old one, and its gradient is the reverse KL's (Eq. 2); with
    it, the tokens are the old policy's most likely ones.
    """

    @property
    def needs_old_topk(self) -> bool:
        return self.config.policy_clip is not None

    def compare(
        self, student: TokenStatistics, teacher: TokenStatistics, tokens: Tokens
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        student_log = self._buckets(student.all_log_probs, student.support_log_probs)
        teacher_log = self._buckets(teacher.all_log_probs, teacher.support_log_probs).detach()
        old_log = student_log.detach()
        if self.needs_old_topk:
            old_log = self._buckets(None, tokens.old_topk_log_probs)
        advantages, is_bounded = self.clip_advantages(teacher_log - student_log.detach())
        loss, is_clipped = self.surrogate(student_log, old_log, advantages)
        probabilities = old_log.exp()
        return (probabilities * loss).sum(-1), {
            "kl": kl_divergence(student_log.detach(), teacher_log),
            "advantage_clip_fraction": (probabilities * is_bounded).sum(-1),
            "policy_clip_fraction": (probabilities * is_clipped).sum(-1),
        }

    def _buckets(self, all_log_probs: torch.Tensor | None, support_log_probs: torch.Tensor | None) -> torch.Tensor:
        """Return (N, V), (N, K + 1) or, without the tail, (N, K) log-probabilities."""
        if support_log_probs is None:
            assert all_log_probs is not None
            return all_log_probs
        return add_tail(support_log_probs) if self.config.distillation_add_tail else support_log_probs


@dataclass(frozen=True)
class LogitAdvantageConfig(TopkConfig, BucketConfig):
    def __post_init__(self):
        super().__post_init__()
        require_reverse_kl(self.alpha, "logit-advantage")
        if self.policy_clip is not None and self.distillation_topk is None:
            raise ValueError(
                f"{BLOCK}.policy_clip={list(self.policy_clip)} with {BLOCK}.distillation_topk=null: the old "
                "policy's probabilities of the whole vocabulary would have to be kept. Set distillation_topk."
            )
        if self.policy_clip is not None and self.support != "student":
            raise ValueError(
                f"{BLOCK}.policy_clip={list(self.policy_clip)} with {BLOCK}.support={self.support}: the clip compares "
                "with the old policy, whose probabilities are kept at its own top-k only. Set policy_clip=null, or "
                "leave support out."
            )


class LogitAdvantages(BucketAdvantages[LogitAdvantageConfig]):
    """Logit level: an advantage for every token of the vocabulary, or of a top-k support."""

    Config = LogitAdvantageConfig

    @property
    def support(self) -> Support:
        return Support(self.config.distillation_topk, of=self.config.support)


class TokenAdvantage(BucketAdvantages[BucketConfig]):
    """Token level (§4.2): the student's most likely token at each position, whatever was sampled, and the tail."""

    @dataclass(frozen=True)
    class Config(BucketConfig):
        def __post_init__(self):
            super().__post_init__()
            require_reverse_kl(self.alpha, "token")

    @property
    def support(self) -> Support:
        return Support(1)


class SequenceAdvantage(Advantages[AdvantageConfig]):
    """Sequence level (§4.2): the mean of the sampled tokens' advantages, one number on all tokens of a response."""

    @dataclass(frozen=True)
    class Config(AdvantageConfig):
        def __post_init__(self):
            super().__post_init__()
            require_reverse_kl(self.alpha, "sequence")

    @property
    def support(self) -> Support:
        return SAMPLED_TOKEN

    def compare(
        self, student: TokenStatistics, teacher: TokenStatistics, tokens: Tokens
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        log_probs = student.log_probs
        log_ratio = (log_probs - teacher.log_probs).detach()
        advantages, is_bounded = self.clip_advantages(tokens.row_means(-log_ratio))
        old_log_probs = log_probs.detach() if self.config.policy_clip is None else tokens.old_log_probs
        loss, is_clipped = self.surrogate(log_probs, old_log_probs, advantages)
        masks = {"advantage_clip_fraction": is_bounded, "policy_clip_fraction": is_clipped}
        fractions = {name: mask.to(loss.dtype).expand_as(loss) for name, mask in masks.items()}
        return loss, {"kl": log_ratio, **fractions}


OBJECTIVES: Mapping[str, type[Objective]] = {
    "logit": Divergence,
    "logit-advantage": LogitAdvantages,
    "token": TokenAdvantage,
    "sequence": SequenceAdvantage,
    "sampled-token": SampledToken,
}
