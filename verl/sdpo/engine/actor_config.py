"""verl's FSDP actor configuration with SDPO's additions, and the losses of verl that it parametrises."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from verl.sdpo.checks import BLOCK, refusal
from verl.sdpo.config import SelfDistillationConfig, is_lora, parse_block
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
            raise refusal(
                {"actor_rollout_ref.actor.shared_prefix": repr(self.shared_prefix)},
                f"expected one of {', '.join(SHARED_PREFIX)}",
            )


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


def check_backend(config: Mapping) -> None:
    """Refuse engines of verl that SDPO's does not extend, and options with which student and teacher cannot pair up."""
    actor, ref, model = (config["actor_rollout_ref"][name] for name in ("actor", "ref", "model"))
    if actor["strategy"] not in ("fsdp", "fsdp2"):
        raise refusal(
            {"actor_rollout_ref.actor.strategy": actor["strategy"]},
            "SDPO supports fsdp and fsdp2",
            "Set actor_rollout_ref.actor.strategy=fsdp2 (and model_engine=dp).",
        )
    if model["use_fused_kernels"]:
        raise refusal(
            {"actor_rollout_ref.model.use_fused_kernels": True},
            "verl's fused kernels never return the distributions on which student and teacher are compared",
            "Set use_fused_kernels=False.",
        )
    for role, node in (("actor", actor), ("ref", ref)):
        key = "ulysses_sequence_parallel_size"
        size = max(node.get(key, 1), node["fsdp_config"].get(key, 1))
        if size > 1:
            raise refusal(
                {f"actor_rollout_ref.{role}.ulysses_sequence_parallel_size": size},
                "student and teacher rows have different prompts, so their sequence shards do not line up",
                "Set it to 1.",
            )


def check_mini_batch(config: Mapping) -> None:
    """Refuse a mini-batch that GPUs do not divide, which verl asserts in a worker (`workers/engine_workers.py:267`)."""
    actor, rollout = config["actor_rollout_ref"]["actor"], config["actor_rollout_ref"]["rollout"]
    gpus = config["trainer"]["nnodes"] * config["trainer"]["n_gpus_per_node"]
    responses = actor["ppo_mini_batch_size"] * rollout["n"]
    if responses % gpus:
        raise refusal(
            {
                "actor_rollout_ref.actor.ppo_mini_batch_size": actor["ppo_mini_batch_size"],
                "actor_rollout_ref.rollout.n": rollout["n"],
            },
            f"the product, {responses} responses, does not divide among {gpus} GPUs",
            "Change either.",
        )


def check_normalisation(config: Mapping) -> None:
    """Refuse a denominator that depends on the split into micro-batches."""
    actor = config["actor_rollout_ref"]["actor"]
    if actor["loss_agg_mode"] == "seq-mean-token-sum-norm" and actor["loss_scale_factor"] is None:
        raise refusal(
            {
                "actor_rollout_ref.actor.loss_agg_mode": actor["loss_agg_mode"],
                "actor_rollout_ref.actor.loss_scale_factor": None,
            },
            "that divides by the longest response of each micro-batch, so that the gradient depends on how samples are "
            "grouped",
            "Set loss_scale_factor, for instance to data.max_response_length.",
        )


def check_old_policy(config: Mapping) -> None:
    """Refuse a clip at the old policy's most likely tokens where no pass computes them."""
    block = parse_block(config)
    if not block.objective.needs_old_topk:
        return
    clip = config["actor_rollout_ref"]["actor"]["self_distillation"]["policy_clip"]
    if (config["algorithm"].get("rollout_correction") or {}).get("bypass_mode", False):
        raise refusal(
            {f"{BLOCK}.policy_clip": clip, "algorithm.rollout_correction.bypass_mode": True},
            "the old policy's most likely tokens come from the pass for old log-probabilities, which is left out",
            "Set one of them off.",
        )
    penalties = {
        "actor_rollout_ref.actor.use_kl_loss": config["actor_rollout_ref"]["actor"]["use_kl_loss"],
        "algorithm.use_kl_in_reward": config["algorithm"]["use_kl_in_reward"],
    }
    for key, is_on in penalties.items():
        if is_on and is_lora(config):
            raise refusal(
                {
                    f"{BLOCK}.policy_clip": clip,
                    key: True,
                    "actor_rollout_ref.model.lora_rank": config["actor_rollout_ref"]["model"]["lora_rank"],
                },
                "for a KL penalty verl scores the initial model with the actor's own pass, which would write over the "
                "old policy's most likely tokens",
                "Set policy_clip=null, or use_kl_loss=False and use_kl_in_reward=False.",
            )
