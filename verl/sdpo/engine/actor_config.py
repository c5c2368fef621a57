"""verl's FSDP actor configuration with SDPO's additions, and the losses of verl that it parametrises."""

from dataclasses import dataclass, field

import torch

from verl.sdpo.config import SelfDistillationConfig
from verl.sdpo.micro_step import PolicyLoss, Regularizer
from verl.trainer.ppo.core_algos import compute_policy_loss_vanilla, kl_penalty
from verl.workers.config import FSDPActorConfig

SHARED_PREFIX = ("auto", "on", "off")


@dataclass
class SelfDistillationActorConfig(FSDPActorConfig):
    """The class that `actor_rollout_ref.actor._target_` names in `sdpo.yaml`."""

    self_distillation: SelfDistillationConfig = field(default_factory=SelfDistillationConfig)
    shared_prefix: str = "auto"
    """Computing a prompt once for all rows of a micro-batch that begin with it, for student, teacher and old
    log-probabilities: on, off, or auto (where the model can)."""

    def __post_init__(self):
        super().__post_init__()
        if self.shared_prefix not in SHARED_PREFIX:
            got = repr(self.shared_prefix)
            raise ValueError(f"actor_rollout_ref.actor.shared_prefix must be one of {SHARED_PREFIX}, got {got}.")


def make_regularizer(config: FSDPActorConfig) -> Regularizer:
    """Build the entropy bonus and the KL penalty of `ppo_loss` (verl/workers/utils/losses.py)."""
    return Regularizer(
        entropy_coeff=config.entropy_coeff,
        kl_coef=config.kl_loss_coef if config.use_kl_loss else 0.0,
        kl_penalty=lambda log_probs, reference: kl_penalty(log_probs, reference, config.kl_loss_type),
    )


def make_policy_loss(config: FSDPActorConfig) -> PolicyLoss:
    """Build PPO's clipped loss (verl/trainer/ppo/core_algos.py), summed over flat tokens.

    `config` is the actor's own, without the counts of a global batch.
    """

    def policy_loss(old_log_probs_N, log_probs_N, advantages_N, rollout_is_weights_N):
        loss, _ = compute_policy_loss_vanilla(
            old_log_probs_N,
            log_probs_N,
            advantages_N,
            torch.ones_like(log_probs_N),
            loss_agg_mode="token-sum",
            config=config,
            rollout_is_weights=rollout_is_weights_N,
        )
        return loss

    return policy_loss
