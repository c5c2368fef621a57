"""verl's own losses (verl/trainer/ppo/core_algos.py), as the micro-step calls them."""

import torch

from verl.sdpo.micro_step import PolicyLoss, Regularizer
from verl.trainer.ppo.core_algos import compute_policy_loss_vanilla, kl_penalty
from verl.workers.config import FSDPActorConfig


def make_regularizer(config: FSDPActorConfig) -> Regularizer:
    """Entropy bonus and KL penalty of `ppo_loss` (verl/workers/utils/losses.py)."""
    return Regularizer(
        entropy_coeff=config.entropy_coeff,
        kl_coef=config.kl_loss_coef if config.use_kl_loss else 0.0,
        kl_penalty=lambda log_probs, reference: kl_penalty(log_probs, reference, config.kl_loss_type),
    )


def make_policy_loss(config: FSDPActorConfig) -> PolicyLoss:
    """PPO's clipped loss, summed over flat tokens. `config` is the actor's own, without counts of a global batch."""

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
