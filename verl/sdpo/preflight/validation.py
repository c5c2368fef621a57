"""Every check of a training's configuration that can be made before Ray starts.

A mistake then costs seconds. The checks read the whole Hydra tree that `verl.trainer.main_ppo` composed.
"""

import logging
import os
from collections.abc import Callable, Mapping

from omegaconf import DictConfig

from verl.sdpo import on_cpu
from verl.sdpo.checks import BLOCK, refusal
from verl.sdpo.config import (
    LOSS_MODE,
    STOPPABLE_MODE,
    TEST_TIME_MODE,
    TRAINER_MODE,
    TRAINER_MODES,
    VERLS_TRAINERS,
    is_lora,
    is_sdpo,
    longest_sample,
    parse_block,
)
from verl.sdpo.preflight.chat_template import validate_chat_template
from verl.sdpo.preflight.data_files import validate_files, validate_rewards, validate_text_only
from verl.sdpo.runs.guard_rules import GuardConfig
from verl.sdpo.runs.identity import refuse_other
from verl.sdpo.test_time.question_search import validate_test_time

logger = logging.getLogger(__name__)


def validate_hours(config: Mapping) -> None:
    """
    Raises:
        ValueError: the training would go on after its hours.
    """
    trainer = config["trainer"]
    hours, mode = trainer.get("max_train_hours"), trainer["v1"]["trainer_mode"]
    if hours is not None and not (trainer["use_v1"] and verls_trainer(config)):
        raise ValueError(
            f"trainer.max_train_hours={hours} with trainer.use_v1={trainer['use_v1']}, trainer.v1.trainer_mode={mode}: "
            f"that trainer does not look at it. Set use_v1=True and trainer_mode={STOPPABLE_MODE}, or "
            "max_train_hours=null."
        )


def validate_guard(config: Mapping) -> None:
    """
    Raises:
        ValueError: the guard's values are wrong, or it could not do what it is asked for.
    """
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
    """Which of verl's trainers ours extends; None where it is not ours."""
    return VERLS_TRAINERS.get(config["trainer"]["v1"]["trainer_mode"])


def validate_separation(config: Mapping) -> None:
    """What generation apart from training needs; the first four verl asserts after Ray has started.

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
            "weights that rest in ordinary memory (param_offload, or no accelerator) keeps no copy of these: updates "
            "would be undone. Set algorithm.rollout_correction.bypass_mode=True, or parameter_sync_step=1.",
        ),
    ):
        if not is_right:
            raise ValueError(f"{key}={value} with trainer.v1.trainer_mode={trainer['trainer_mode']}: {advice}")


def validate_teacher_eval(config: Mapping) -> None:
    """
    Raises:
        ValueError: the teacher's answers cannot be evaluated in this training.
    """
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


def _validate_platform(config: DictConfig) -> None:
    if (config["trainer"]["device"] == "cpu") != on_cpu():
        raise ValueError(
            f"trainer.device={config['trainer']['device']} with VERL_PLATFORM="
            f"{os.environ.get('VERL_PLATFORM', '(unset)')}: without an accelerator set VERL_PLATFORM=cpu, which "
            "chooses machine=cpu as well; with one neither."
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


def validate_block(config: Mapping) -> None:
    """Refuse a block `self_distillation` that is missing or wrong; warn of keys without effect."""
    if "self_distillation" not in config["actor_rollout_ref"]["actor"]:
        raise ValueError(
            f"loss_mode={LOSS_MODE} without {BLOCK}: start with --config-name sdpo, which brings the block."
        )
    # The tree is checked as it is; the class repeats its own checks whenever verl builds it.
    for key, value in parse_block(config).ignored.items():
        logger.warning("%s.%s=%r is not read by what the block chooses, and has no effect.", BLOCK, key, value)


def _validate_model(config: Mapping) -> None:
    actor, ref, model = (config["actor_rollout_ref"][name] for name in ("actor", "ref", "model"))
    if actor["strategy"] not in ("fsdp", "fsdp2"):
        raise ValueError(
            f"actor_rollout_ref.actor.strategy={actor['strategy']}: SDPO supports fsdp and fsdp2. "
            "Set actor_rollout_ref.actor.strategy=fsdp2 (and model_engine=dp)."
        )
    if ref["strategy"] != actor["strategy"]:
        raise ValueError(
            f"actor_rollout_ref.ref.strategy={ref['strategy']} differs from actor.strategy={actor['strategy']}: the "
            "teacher is averaged shard by shard. Set both to the same value."
        )
    unlike = "the teacher's shards would not pair up with the student's"
    for key, reason in (
        ("fsdp_size", unlike),
        ("use_orig_params", unlike),
        ("wrap_policy", unlike),
        ("mixed_precision", "teacher and student would differ by rounding alone"),
    ):
        if actor["fsdp_config"].get(key) != ref["fsdp_config"].get(key):
            raise ValueError(
                f"actor_rollout_ref.ref.fsdp_config.{key}={ref['fsdp_config'].get(key)} differs from "
                f"actor.fsdp_config.{key}={actor['fsdp_config'].get(key)}: {reason}. Set both to the same value."
            )
    if model["use_fused_kernels"]:
        raise ValueError(
            "actor_rollout_ref.model.use_fused_kernels=True: verl's fused kernels never hand out the distributions on "
            "which student and teacher are compared. Set use_fused_kernels=False."
        )
    for role, node in (("actor", actor), ("ref", ref)):
        size = max(
            node.get("ulysses_sequence_parallel_size", 1), node["fsdp_config"].get("ulysses_sequence_parallel_size", 1)
        )
        if size > 1:
            raise ValueError(
                f"actor_rollout_ref.{role}.ulysses_sequence_parallel_size={size}: student and teacher rows have "
                "different prompts, so their sequence shards do not line up. Set it to 1."
            )


def _validate_lora(config: Mapping) -> None:
    model = config["actor_rollout_ref"]["model"]
    if model.get("lora_adapter_path"):
        raise ValueError(
            f"actor_rollout_ref.model.lora_adapter_path={model['lora_adapter_path']}: the initial model would not be "
            "the student without its adapter, which is what SDPO's teachers begin with. Set lora_adapter_path=null, "
            "and actor_rollout_ref.model.path to a model with that adapter merged into it."
        )
    if (model.get("lora") or {}).get("rank", 0):
        raise ValueError(
            f"actor_rollout_ref.model.lora.rank={model['lora']['rank']} is Megatron's LoRA, and SDPO runs on FSDP. Set "
            f"lora.rank=0 and actor_rollout_ref.model.lora_rank={model['lora']['rank']}."
        )
    if not is_lora(config):
        return
    targets = model.get("target_modules", "all-linear")
    targets = [targets] if isinstance(targets, str) else list(targets or [])
    if model.get("target_parameters") or {"lm_head", "embed_tokens"} & set(targets):
        raise ValueError(
            f"actor_rollout_ref.model.target_modules={targets}, target_parameters={model.get('target_parameters')}: "
            "SDPO reads hidden states where the head stands, and merges adapters of linear layers only. Leave out "
            "lm_head and embed_tokens, and set target_parameters=null."
        )
    actor = config["actor_rollout_ref"]["actor"]
    engine = actor["fsdp_config"]
    smallest = engine["wrap_policy"].get("min_num_params", 0)
    if actor["strategy"] == "fsdp" and smallest > 0 and not engine["use_orig_params"]:
        raise ValueError(
            f"actor_rollout_ref.actor.fsdp_config.wrap_policy.min_num_params={smallest} with lora_rank > 0, "
            "strategy=fsdp and use_orig_params=False: verl then puts adapter and frozen base into one flat parameter, "
            "which FSDP1 refuses. Set min_num_params=0, for actor and ref."
        )


def _validate_reference(config: Mapping) -> None:
    block = parse_block(config)
    if config["algorithm"]["use_kl_in_reward"] and not block.routing.reads_rewards:
        raise ValueError(
            f"algorithm.use_kl_in_reward=True with loss_mode={LOSS_MODE}: it changes advantages, which nothing here "
            "reads. Set algorithm.use_kl_in_reward=False; a KL to the initial model is actor.use_kl_loss=True with "
            f"{BLOCK}.teacher_regularization=trust-region or frozen."
        )
    teacher = block.choices.teacher_regularization
    if block.teacher_class.moves:
        penalties = {
            "actor_rollout_ref.actor.use_kl_loss": config["actor_rollout_ref"]["actor"]["use_kl_loss"],
            "algorithm.use_kl_in_reward": config["algorithm"]["use_kl_in_reward"],
        }
        for key, is_on in penalties.items():
            # With LoRA verl's KL is to the student without its adapter, whatever the teacher is.
            if is_on and not is_lora(config):
                raise ValueError(
                    f"{key}=True with {BLOCK}.teacher_regularization={teacher}: the reference model is the moving "
                    f"teacher, no fixed reference is left for the KL. Set {key}=False, or "
                    "teacher_regularization=trust-region."
                )
        dtype = config["actor_rollout_ref"]["ref"]["fsdp_config"]["model_dtype"]
        if dtype not in ("fp32", "float32"):
            raise ValueError(
                f"actor_rollout_ref.ref.fsdp_config.model_dtype={dtype} with {BLOCK}.teacher_regularization={teacher}: "
                "small updates round to nothing below float32. Set model_dtype=fp32 (compute stays in the "
                "mixed_precision dtype)."
            )
    if block.teacher_class.needs_second_model(is_lora(config)):
        _validate_placement(config["actor_rollout_ref"]["ref"]["fsdp_config"], block.teacher_config.teacher_placement)
    if (config.get("distillation") or {}).get("enabled", False):
        raise ValueError(
            f"distillation.enabled=True with loss_mode={LOSS_MODE}: verl's own distillation brings another teacher and "
            "replaces the loss. Set distillation.enabled=False."
        )


def _validate_placement(engine: Mapping, placement: str) -> None:
    if engine.get("offload_policy", False):
        raise ValueError(
            f"actor_rollout_ref.ref.fsdp_config.offload_policy=True with {BLOCK}.teacher_placement={placement}: the "
            "second alone says where the teacher's weights rest. Set offload_policy=False, and teacher_placement=cpu "
            "to offload them."
        )


def _validate_lengths(config: Mapping) -> None:
    max_reprompt_len = parse_block(config).prompt.max_reprompt_len
    actor = config["actor_rollout_ref"]["actor"]
    data = config["data"]
    longest = longest_sample(data["max_prompt_length"], data["max_response_length"], max_reprompt_len)
    if actor["use_dynamic_bsz"] and longest > actor["ppo_max_token_len_per_gpu"]:
        raise ValueError(
            f"data.max_prompt_length={data['max_prompt_length']} + {BLOCK}.max_reprompt_len={max_reprompt_len} + twice "
            f"data.max_response_length={data['max_response_length']} = {longest} tokens, but "
            f"actor_rollout_ref.actor.ppo_max_token_len_per_gpu={actor['ppo_max_token_len_per_gpu']}: one sample, "
            f"student and teacher, would not fit into a micro-batch. Raise ppo_max_token_len_per_gpu to {longest}."
        )
    if not config["data"]["filter_overlong_prompts"]:
        raise ValueError(
            "data.filter_overlong_prompts=False: verl would cut long questions off for the student, and the teacher "
            "would read the whole. Set data.filter_overlong_prompts=True."
        )
    if max_reprompt_len < config["data"]["max_prompt_length"]:
        raise ValueError(
            f"{BLOCK}.max_reprompt_len={max_reprompt_len} is shorter than data.max_prompt_length="
            f"{config['data']['max_prompt_length']}: the question alone may not fit. Raise max_reprompt_len."
        )


def _validate_mini_batch(config: Mapping) -> None:
    """GPUs must divide it. verl asserts that in a Ray worker (`verl/workers/engine_workers.py:267`)."""
    actor, rollout = config["actor_rollout_ref"]["actor"], config["actor_rollout_ref"]["rollout"]
    gpus = config["trainer"]["nnodes"] * config["trainer"]["n_gpus_per_node"]
    responses = actor["ppo_mini_batch_size"] * rollout["n"]
    if responses % gpus:
        raise ValueError(
            f"actor_rollout_ref.actor.ppo_mini_batch_size={actor['ppo_mini_batch_size']} x rollout.n={rollout['n']} = "
            f"{responses} responses do not divide among {gpus} GPUs. Change either."
        )


def _validate_normalisation(config: Mapping) -> None:
    actor = config["actor_rollout_ref"]["actor"]
    if actor["loss_agg_mode"] == "seq-mean-token-sum-norm" and actor["loss_scale_factor"] is None:
        raise ValueError(
            "actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-sum-norm with loss_scale_factor=null divides by the "
            "longest response of each micro-batch, so that the gradient depends on how samples are grouped. Set "
            "loss_scale_factor, for instance to data.max_response_length."
        )


def _validate_old_policy(config: Mapping) -> None:
    block = parse_block(config)
    correction = config["algorithm"].get("rollout_correction") or {}
    if block.objective.needs_old_topk and correction.get("bypass_mode", False):
        raise ValueError(
            f"{BLOCK}.policy_clip with algorithm.rollout_correction.bypass_mode=True: the old policy's most likely "
            "tokens come from the pass for old log-probabilities, which bypass_mode leaves out. Set one of them off."
        )
    has_kl = config["actor_rollout_ref"]["actor"]["use_kl_loss"] or config["algorithm"]["use_kl_in_reward"]
    if block.objective.needs_old_topk and has_kl and is_lora(config):
        raise ValueError(
            f"{BLOCK}.policy_clip with a KL penalty and actor_rollout_ref.model.lora_rank > 0: verl scores the initial "
            "model with the actor's own pass, which would write over the old policy's most likely tokens. Set "
            "policy_clip=null, or use_kl_loss=False and use_kl_in_reward=False."
        )


def _validate_refill(config: Mapping) -> None:
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


def _validate_dump(config: DictConfig) -> None:
    limit = (config.get("insight") or {}).get("max_samples", 0)
    if type(limit) is not int or limit < 0:
        raise ValueError(f"insight.max_samples={limit!r}: expected a whole number of responses a step; 0 dumps none.")


def _validate_strategy(config: Mapping) -> None:
    if on_cpu():
        from verl.sdpo.cpu import validate_strategy

        validate_strategy(config)


def _validate_test_time(config: DictConfig) -> None:
    if config["trainer"]["v1"]["trainer_mode"] == TEST_TIME_MODE and "test_time" not in config:
        raise ValueError(
            f"trainer.v1.trainer_mode={TEST_TIME_MODE} without a block test_time: use --config-name sdpo_ttt."
        )
    if "test_time" in config:
        validate_test_time(config)


Check = Callable[[DictConfig], None]
# In this order: what explains most first, what reads data last.
SDPO_CHECKS: tuple[Check, ...] = (
    validate_block,
    _validate_model,
    _validate_lora,
    _validate_reference,
    _validate_lengths,
    _validate_mini_batch,
    _validate_normalisation,
    _validate_old_policy,
    validate_text_only,
)
CHECKS: tuple[Check, ...] = (
    _validate_platform,
    _validate_strategy,
    validate_hours,
    validate_guard,
    validate_separation,
    validate_teacher_eval,
    _validate_dump,
    validate_files,
    refuse_other,
    validate_chat_template,
    validate_rewards,
    _validate_test_time,
)


def validate_training_config(config: DictConfig) -> None:
    """Run the checks of a training with SDPO; of another one, that its trainer is not SDPO's."""
    for check in (_validate_refill, validate_trainer_mode, *(SDPO_CHECKS if is_sdpo(config) else ())):
        check(config)


def validate(config: DictConfig) -> None:
    """Run every check of ours that concerns this training.

    Raises:
        ValueError: naming the key, its value and what to set instead. Nothing of Ray has started then.
        SandboxUnavailable: the data holds code, and this machine cannot confine it as asked.
    """
    validate_training_config(config)
    for check in CHECKS:
        check(config)
