"""Every check of a training's configuration that can be made before Ray starts.

A mistake then costs seconds. The checks read the whole Hydra tree that `verl.trainer.main_ppo` composed.
"""

import logging
from collections.abc import Callable, Mapping

from omegaconf import DictConfig

from verl.sdpo import cpu, on_cpu
from verl.sdpo.checks import BLOCK, refusal
from verl.sdpo.config import (
    LOSS_MODE,
    STOPPABLE_MODE,
    TRAINER_MODE,
    TRAINER_MODES,
    VERLS_TRAINERS,
    is_sdpo,
    parse_block,
)
from verl.sdpo.engine import actor_config, lora, reference
from verl.sdpo.preflight.chat_template import check_chat_template
from verl.sdpo.preflight.data_files import check_files, check_rewards, check_text_only
from verl.sdpo.runs import identity
from verl.sdpo.runs.guard_rules import GuardConfig
from verl.sdpo.test_time import question_search
from verl.sdpo.trainer import lengths

logger = logging.getLogger(__name__)


def validate_hours(config: Mapping) -> None:
    """Refuse a limit of training time that the trainer would not keep."""
    trainer = config["trainer"]
    hours, mode = trainer.get("max_train_hours"), trainer["v1"]["trainer_mode"]
    if hours is not None and not (trainer["use_v1"] and verls_trainer(config)):
        raise ValueError(
            f"trainer.max_train_hours={hours} with trainer.use_v1={trainer['use_v1']}, trainer.v1.trainer_mode={mode}: "
            f"that trainer does not look at it. Set use_v1=True and trainer_mode={STOPPABLE_MODE}, or "
            "max_train_hours=null."
        )


def validate_guard(config: Mapping) -> None:
    """Refuse a guard with wrong values, and one that could not act in this training."""
    guard = GuardConfig.of(config.get("insight") or {}).guard
    trainer = config["trainer"]
    mode = trainer["v1"]["trainer_mode"]
    if guard in ("stop", "rollback") and not (trainer["use_v1"] and verls_trainer(config)):
        raise ValueError(
            f"insight.guard={guard} with trainer.use_v1={trainer['use_v1']}, trainer.v1.trainer_mode={mode}: that "
            f"trainer has no guard. Set use_v1=True and trainer_mode={STOPPABLE_MODE}, or insight.guard=off."
        )
    kept = trainer["max_actor_ckpt_to_keep"]
    if guard == "rollback" and (trainer["save_freq"] <= 0 or kept == 1):
        raise ValueError(
            f"insight.guard=rollback with trainer.save_freq={trainer['save_freq']}, max_actor_ckpt_to_keep={kept}: "
            "there would be no good checkpoint to go back to. Set save_freq, and max_actor_ckpt_to_keep to null or 2."
        )
    if guard == "rollback" and verls_trainer(config) != "sync":
        raise ValueError(
            f"insight.guard=rollback with trainer.v1.trainer_mode={mode}: responses of the bad weights are waiting and "
            "would be learnt from next. Set insight.guard=stop, or a synchronous trainer."
        )


def verls_trainer(config: Mapping) -> str | None:
    """Return the trainer of verl that the configured one extends; None where it is not one of SDPO's."""
    return VERLS_TRAINERS.get(config["trainer"]["v1"]["trainer_mode"])


def validate_separation(config: Mapping) -> None:
    """Refuse what generation apart from training cannot run with; verl asserts the first four after Ray has started.

    Raises:
        ValueError: naming the key, its value and what to set instead.
    """
    if verls_trainer(config) != "separate_async":
        return
    trainer, model = config["trainer"]["v1"], config["actor_rollout_ref"]
    actor, rollout = model["actor"], model["rollout"]
    updates, batch = trainer["separate_async"]["parameter_sync_step"], config["data"]["train_batch_size"]
    correction = config["algorithm"].get("rollout_correction") or {}
    # `.cpu()` of weights that are there already is no copy (verl/utils/fsdp_utils.py:1180).
    rests_in_memory = actor["strategy"] == "fsdp2" and (on_cpu() or actor["fsdp_config"].get("param_offload", False))
    for key, value, is_right, advice in (
        (
            "data.train_batch_size",
            batch,
            batch == updates * actor["ppo_mini_batch_size"],
            "expected trainer.v1.separate_async.parameter_sync_step x actor_rollout_ref.actor.ppo_mini_batch_size = "
            f"{updates} x {actor['ppo_mini_batch_size']}. Change one of them.",
        ),
        (
            "actor_rollout_ref.rollout.nnodes",
            rollout["nnodes"],
            rollout["nnodes"] > 0,
            "generation has nodes of its own. Set how many.",
        ),
        (
            "actor_rollout_ref.rollout.n_gpus_per_node",
            rollout["n_gpus_per_node"],
            rollout["n_gpus_per_node"] > 0,
            "generation has accelerators of its own. Set how many.",
        ),
        (
            "actor_rollout_ref.rollout.checkpoint_engine.backend",
            rollout["checkpoint_engine"]["backend"],
            rollout["checkpoint_engine"]["backend"] != "naive",
            f"the weights go to other processes. Set {'tcp' if on_cpu() else 'nccl'}.",
        ),
        (
            "actor_rollout_ref.hybrid_engine",
            False,
            model["hybrid_engine"] or not is_sdpo(config),
            "verl then puts the reference model into a worker of its own, where the teacher cannot follow the student. "
            "Set it to True.",
        ),
        (
            "trainer.v1.separate_async.parameter_sync_step",
            updates,
            updates == 1 or correction.get("bypass_mode", False) or not rests_in_memory,
            "for old log-probabilities verl puts older weights in the place of the present ones, and with fsdp2 and "
            "weights that are kept in host memory (param_offload, or no accelerator) keeps no copy of these: updates "
            "would be undone. Set algorithm.rollout_correction.bypass_mode=True, or parameter_sync_step=1.",
        ),
    ):
        if not is_right:
            raise ValueError(f"{key}={value} with trainer.v1.trainer_mode={trainer['trainer_mode']}: {advice}")


def validate_teacher_eval(config: Mapping) -> None:
    """Refuse an evaluation of the teacher's answers where this training cannot make it."""
    frequency = (config.get("insight") or {}).get("teacher_eval_freq")
    if frequency is None:
        return
    where = f"insight.teacher_eval_freq={frequency!r}"
    if not (type(frequency) is int and frequency >= 1):
        raise ValueError(f"{where}: expected a whole number of steps >= 1, or null.")
    if not is_sdpo(config):
        raise ValueError(f"{where} without loss_mode={LOSS_MODE}: there is no teacher. Set it to null.")
    tools = config["actor_rollout_ref"]["rollout"]["multi_turn"]
    if tools["tool_config_path"] or tools["function_tool_path"]:
        raise ValueError(f"{where} with tools: only answers of a single turn can be evaluated. Set it to null.")
    reward_model = config["reward"]["reward_model"]
    if reward_model["enable"] and not reward_model["enable_resource_pool"]:
        raise ValueError(
            f"{where} with a colocated reward model, which scores training batches only. Set it to null, or "
            "reward.reward_model.enable_resource_pool=True."
        )


def validate_trainer_mode(config: Mapping) -> None:
    """Refuse a trainer that does not go with the loss mode."""
    trainer = config["trainer"]
    mode = trainer["v1"]["trainer_mode"]
    loss_mode = config["actor_rollout_ref"]["actor"]["policy_loss"]["loss_mode"]
    if is_sdpo(config) and not (trainer["use_v1"] and mode in TRAINER_MODES):
        raise refusal(
            {
                "actor_rollout_ref.actor.policy_loss.loss_mode": LOSS_MODE,
                "trainer.use_v1": trainer["use_v1"],
                "trainer.v1.trainer_mode": mode,
            },
            "that trainer builds no teacher batches",
            f"Start with --config-name sdpo, or set trainer.use_v1=True and trainer.v1.trainer_mode={TRAINER_MODE}.",
        )
    if not is_sdpo(config) and mode in TRAINER_MODES:
        raise refusal(
            {
                "trainer.v1.trainer_mode": mode,
                "actor_rollout_ref.actor.policy_loss.loss_mode": loss_mode,
            },
            "that trainer builds teacher batches, which this loss mode never reads",
            f"Set trainer.v1.trainer_mode=sync, or loss_mode={LOSS_MODE}.",
        )


def check_block(config: Mapping) -> None:
    """Refuse a block `self_distillation` that is missing or wrong; warn of keys without effect."""
    if "self_distillation" not in config["actor_rollout_ref"]["actor"]:
        raise refusal(
            {"actor_rollout_ref.actor.policy_loss.loss_mode": LOSS_MODE},
            f"it cannot run without {BLOCK}",
            "Start with --config-name sdpo, which brings the block.",
        )
    # The tree is checked as it is; the class repeats its own checks whenever verl builds it.
    for key, value in parse_block(config).ignored.items():
        logger.warning("%s.%s=%r is not read by what the block chooses, and has no effect.", BLOCK, key, value)


def validate_refill(config: Mapping) -> None:
    rounds = config["data"].get("refill_until_target", 0)
    if not (type(rounds) is int and rounds >= 0):
        raise ValueError(f"data.refill_until_target={rounds!r}: expected a whole number of rounds >= 0.")
    if not rounds:
        return
    if not is_sdpo(config):
        raise ValueError(
            f"data.refill_until_target={rounds} without loss_mode={LOSS_MODE}: what a question teaches matters to SDPO "
            "alone. Set it to 0."
        )
    sampler, reward_model = config["trainer"]["v1"]["sampler"], config["reward"]["reward_model"]
    for key, value, is_right, reason, fix in (
        (
            "trainer.v1.trainer_mode",
            config["trainer"]["v1"]["trainer_mode"],
            verls_trainer(config) == "sync",
            "it waits until nothing is being generated, which an asynchronous trainer never is",
            "Set it to 0, or a synchronous trainer",
        ),
        (
            "data.gen_batch_size",
            config["data"]["gen_batch_size"],
            config["data"]["gen_batch_size"] == 1,
            "refills come in any number of questions",
            "Set it to 1, or leave it out",
        ),
        (
            "algorithm.filter_groups.enable",
            True,
            not (config["algorithm"].get("filter_groups") or {}).get("enable", False),
            "it brings a sampler of its own, and verl takes one",
            "Set one of them off",
        ),
        (
            "trainer.v1.sampler.custom_sampler.name",
            sampler["custom_sampler"]["name"],
            sampler["custom_sampler"]["name"] == "RefillBuffer",
            "that is another sampler, and verl takes one",
            "Leave it out, or set refill_until_target=0",
        ),
        (
            "trainer.v1.sampler.sync_refill_failed_groups",
            True,
            not sampler["sync_refill_failed_groups"],
            "verl tells no custom sampler of it",
            "Set it to False",
        ),
        (
            "reward.reward_model.enable",
            True,
            not reward_model["enable"] or reward_model["enable_resource_pool"],
            "a colocated reward model scores after sampling, too late to say what teaches",
            "Set reward.reward_model.enable_resource_pool=True, or refill_until_target=0",
        ),
    ):
        if not is_right:
            raise ValueError(f"data.refill_until_target={rounds} with {key}={value}: {reason}. {fix}.")


def validate_dump(config: DictConfig) -> None:
    limit = (config.get("insight") or {}).get("max_samples", 0)
    if type(limit) is not int or limit < 0:
        raise ValueError(f"insight.max_samples={limit!r}: expected a whole number of responses a step; 0 dumps none.")


Check = Callable[[DictConfig], None]
CHECKS: tuple[Check, ...] = (
    validate_refill,
    validate_trainer_mode,
    cpu.check,
    validate_hours,
    validate_guard,
    validate_separation,
    validate_teacher_eval,
    validate_dump,
    check_files,
    identity.check,
    check_chat_template,
    check_rewards,
    question_search.check,
)
# Of trainings with SDPO; any other runs as if these did not exist.
SDPO_CHECKS: tuple[Check, ...] = (
    check_block,
    actor_config.check_backend,
    actor_config.check_mini_batch,
    actor_config.check_normalisation,
    actor_config.check_old_policy,
    lora.check,
    reference.check,
    lengths.check,
    check_text_only,
)


def validate(config: DictConfig, *, data_may_be_missing: bool = False) -> None:
    """Run every check that concerns this training.

    Raises:
        ValueError: naming the key, its value and what to set instead.
        SandboxUnavailable: the data holds code, and this machine cannot confine it as asked.
    """
    for check in (*CHECKS, *SDPO_CHECKS) if is_sdpo(config) else CHECKS:
        if not (data_may_be_missing and check is check_files):
            check(config)
