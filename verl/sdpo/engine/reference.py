"""verl's reference model as the teacher: trainings in which it cannot be both."""

from collections.abc import Mapping

from verl.sdpo.checks import BLOCK, refusal
from verl.sdpo.config import LOSS_MODE, is_lora, parse_block


def check(config: Mapping) -> None:
    """Refuse settings of the reference model, or uses of it, that the teacher rules out."""
    _check_shards(config)
    _check_penalties(config)
    actor_rollout_ref = config["actor_rollout_ref"]
    block = parse_block(config)
    engine = actor_rollout_ref["ref"]["fsdp_config"]
    if block.teacher_class.moves and engine["model_dtype"] not in ("fp32", "float32"):
        raise refusal(
            {
                "actor_rollout_ref.ref.fsdp_config.model_dtype": engine["model_dtype"],
                f"{BLOCK}.teacher_regularization": block.choices.teacher_regularization,
            },
            "small updates round to nothing below float32",
            "Set model_dtype=fp32 (compute stays in the mixed_precision dtype).",
        )
    if block.teacher_class.needs_second_model(is_lora(config)) and engine.get("offload_policy", False):
        raise refusal(
            {
                "actor_rollout_ref.ref.fsdp_config.offload_policy": True,
                f"{BLOCK}.teacher_placement": block.teacher_config.teacher_placement,
            },
            "the second alone says where the teacher's weights are kept",
            "Set offload_policy=False, and teacher_placement=cpu to offload them.",
        )
    if (config.get("distillation") or {}).get("enabled", False):
        raise refusal(
            {"distillation.enabled": True, "actor_rollout_ref.actor.policy_loss.loss_mode": LOSS_MODE},
            "verl's own distillation brings another teacher and replaces the loss",
            "Set distillation.enabled=False.",
        )


def _check_shards(config: Mapping) -> None:
    """Refuse a teacher whose shards do not pair up with the student's."""
    actor, ref = config["actor_rollout_ref"]["actor"], config["actor_rollout_ref"]["ref"]
    if ref["strategy"] != actor["strategy"]:
        raise refusal(
            {
                "actor_rollout_ref.ref.strategy": ref["strategy"],
                "actor_rollout_ref.actor.strategy": actor["strategy"],
            },
            "the teacher is averaged shard by shard",
            "Set both to the same value.",
        )
    unlike = "the teacher's shards would not pair up with the student's"
    for key, reason in (
        ("fsdp_size", unlike),
        ("use_orig_params", unlike),
        ("wrap_policy", unlike),
        ("mixed_precision", "teacher and student would differ by rounding alone"),
    ):
        values = {
            f"actor_rollout_ref.{role}.fsdp_config.{key}": config["actor_rollout_ref"][role]["fsdp_config"].get(key)
            for role in ("ref", "actor")
        }
        if len({str(value) for value in values.values()}) > 1:
            raise refusal(values, f"they differ, and {reason}", "Set both to the same value.")


def _check_penalties(config: Mapping) -> None:
    """Refuse a KL to a reference model that moves, or in rewards that nothing reads."""
    block = parse_block(config)
    if config["algorithm"]["use_kl_in_reward"] and not block.routing.reads_rewards:
        raise refusal(
            {"algorithm.use_kl_in_reward": True, "actor_rollout_ref.actor.policy_loss.loss_mode": LOSS_MODE},
            "it changes advantages, which nothing here reads",
            "Set algorithm.use_kl_in_reward=False; a KL to the initial model is actor.use_kl_loss=True with "
            f"{BLOCK}.teacher_regularization=trust-region or frozen.",
        )
    # With LoRA verl's KL is to the student without its adapter, whatever the teacher is.
    if not block.teacher_class.moves or is_lora(config):
        return
    penalties = {
        "actor_rollout_ref.actor.use_kl_loss": config["actor_rollout_ref"]["actor"]["use_kl_loss"],
        "algorithm.use_kl_in_reward": config["algorithm"]["use_kl_in_reward"],
    }
    for key, is_on in penalties.items():
        if is_on:
            raise refusal(
                {key: True, f"{BLOCK}.teacher_regularization": block.choices.teacher_regularization},
                "the reference model is the moving teacher, no fixed reference is left for the KL",
                f"Set {key}=False, or teacher_regularization=trust-region.",
            )
