"""Settings of SDPO: the one source of truth for their defaults, and every check that can be made before Ray starts.

The dataclass below is what `actor_rollout_ref.actor.self_distillation` holds; `plugin.py` hands the same defaults to
Hydra, so that the yaml files never repeat them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from glob import glob
from math import ceil
from numbers import Real
from pathlib import Path
from typing import Any

BLOCK = "actor_rollout_ref.actor.self_distillation"
LOSS_MODE = "sdpo"
TRAINER_MODE = "sdpo"

TEACHERS = ("ema", "trust-region", "frozen", "live")
UPDATE_INTERVALS = ("step", "optimizer")
TRUNCATIONS = ("left", "right", "error")
DEMONSTRATION_CHOICES = ("first", "random")
TEMPLATE_PLACEHOLDERS = {
    "reprompt_template": ("prompt", "solution", "feedback"),
    "solution_template": ("successful_previous_attempt",),
    "feedback_template": ("feedback_raw",),
}


@dataclass(frozen=True)
class SelfDistillationConfig:
    """How the model teaches itself.

    Raises:
        ValueError: at construction, naming the key, the value and what to set instead.
    """

    full_logit_distillation: bool = True
    """Compare next-token distributions (top-k or full vocabulary); False compares only the sampled token."""

    alpha: float = 0.5
    """0.0: forward KL(teacher || student); 1.0: reverse KL(student || teacher); between: generalised JSD."""

    success_reward_threshold: float = 1.0
    """A rollout whose summed reward reaches this is a success and may serve as a demonstration."""

    teacher_regularization: str = "ema"
    """ema: moving average of the student; trust-region: log-space mix of the initial model and the student;
    frozen: the initial model; live: the student itself."""

    teacher_update_rate: float = 0.05
    """Weight of the student in each EMA update, and in the trust-region mix. Ignored by frozen and live."""

    teacher_update_interval: str = "step"
    """When the EMA moves. step: once per training step, as the authors; optimizer: after every optimizer step."""

    distillation_topk: int | None = 100
    """Tokens of the student's distribution that are compared; null compares the full vocabulary."""

    distillation_add_tail: bool = True
    """Lump the probability outside the top-k into one extra bucket; False renormalises over the top-k."""

    is_clip: float | None = 2.0
    """Upper bound of the importance ratio pi / pi_old that weighs each token; null: no weight."""

    max_reprompt_len: int = 10240
    """Longest teacher prompt, in tokens, chat template included."""

    reprompt_truncation: str = "right"
    """Which end of an over-long demonstration or feedback is cut (left, right), or error."""

    dont_reprompt_on_self_success: bool = True
    """Never show a sample its own successful attempt."""

    remove_thinking_from_demonstration: bool = True
    """Strip `<think>...</think>` from demonstrations."""

    demonstration_choice: str = "first"
    """first: the group's first success, as the authors; random: any success, drawn with demonstration_seed."""

    demonstration_seed: int = 0
    """Seed of the random demonstration choice; the training step is mixed in."""

    reprompt_template: str = "{prompt}{solution}{feedback}\n\nCorrectly solve the original question."
    """The teacher's user message. {solution} and {feedback} are the two sections below, or empty."""

    solution_template: str = "\nCorrect solution:\n\n{successful_previous_attempt}"
    """The section that shows a demonstration."""

    feedback_template: str = "\nThe following is feedback from your unsuccessful earlier attempt:\n\n{feedback_raw}"
    """The section that shows the environment's feedback on this very sample."""

    include_environment_feedback: bool = True
    """Show the environment's feedback to the teacher."""

    environment_feedback_only_without_solution: bool = True
    """Show feedback only to samples for which there is no demonstration."""

    max_grader_error_rate: float = 0.01
    """Training stops when more than this share of a step's samples could not be graded (grader_error)."""

    def __post_init__(self):
        _require_choice("teacher_regularization", self.teacher_regularization, TEACHERS)
        _require_choice("teacher_update_interval", self.teacher_update_interval, UPDATE_INTERVALS)
        _require_choice("reprompt_truncation", self.reprompt_truncation, TRUNCATIONS)
        _require_choice("demonstration_choice", self.demonstration_choice, DEMONSTRATION_CHOICES)
        for name in ("alpha", "teacher_update_rate", "max_grader_error_rate"):
            _require(name, getattr(self, name), lambda v: _is_number(v) and 0 <= v <= 1, "a number in [0, 1]")
        for field in fields(self):
            if field.type is bool:
                _require(field.name, getattr(self, field.name), lambda v: isinstance(v, bool), "true or false")
        _require("demonstration_seed", self.demonstration_seed, lambda v: type(v) is int, "a whole number")
        _require("success_reward_threshold", self.success_reward_threshold, _is_number, "a number")
        _require("is_clip", self.is_clip, lambda v: v is None or (_is_number(v) and v > 0), "a number > 0, or null")
        _require("max_reprompt_len", self.max_reprompt_len, _is_positive_int, "a whole number of tokens >= 1")
        _require(
            "distillation_topk",
            self.distillation_topk,
            lambda v: v is None or _is_positive_int(v),
            "a whole number >= 1, or null for the full vocabulary",
        )
        for name, placeholders in TEMPLATE_PLACEHOLDERS.items():
            for placeholder in placeholders:
                needle = "{" + placeholder + "}"
                _require(
                    name,
                    getattr(self, name),
                    lambda v, n=needle: isinstance(v, str) and n in v,
                    f"a text that contains {needle}",
                )
        if not self.full_logit_distillation and self.alpha != 1.0:
            raise ValueError(
                f"{BLOCK}.alpha={self.alpha} together with {BLOCK}.full_logit_distillation=False: one sampled token "
                "can only estimate the reverse KL. Set alpha=1.0, or full_logit_distillation=True."
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_positive_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _require(name: str, value: Any, is_valid, expected: str) -> None:
    if not is_valid(value):
        raise ValueError(f"{BLOCK}.{name}={value!r}: expected {expected}.")


def _require_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    _require(name, value, lambda v: v in choices, "one of " + ", ".join(choices))


def is_sdpo(config: Mapping) -> bool:
    """Whether the training configuration (the whole Hydra tree) asks for SDPO."""
    return config["actor_rollout_ref"]["actor"]["policy_loss"]["loss_mode"] == LOSS_MODE


def local_files(data: Mapping, *keys: str) -> list[Path]:
    """The files of `data.train_files`, `data.val_files`, ... that are not to be fetched from elsewhere.

    Patterns are expanded, as `datasets` does for verl; one without a match stands for itself.
    """
    names = [name for key in keys for name in ([data[key]] if isinstance(data[key], str) else data[key] or [])]
    paths = [str(Path(name).expanduser()) for name in names if "://" not in name]
    return [Path(file) for path in paths for file in sorted(glob(path, recursive=True)) or [path]]


def validate_data_files(config: Mapping) -> None:
    """Check that the data of a training of ours (SDPO, or any with `user.yaml`) is there.

    Raises:
        ValueError: naming the missing file, and the setting of `user.yaml` that leads to it.
    """
    data = config["data"]
    # A dataset class of the user's own may read anything.
    if data["custom_cls"]["path"] or not (is_sdpo(config) or "vars" in config):
        return
    for key in ("train_files", "val_files"):
        for file in local_files(data, key):
            if not file.is_file():
                raise ValueError(
                    f"data.{key}: there is no {file}. With user.yaml that is vars.dir (SDPO_DIR) / vars.task (TASK); "
                    "data/README.md says how to make the files."
                )


def validate_training_config(config: Mapping) -> None:
    """Check the whole training configuration of verl for combinations that SDPO cannot honour.

    Args:
        config: the Hydra tree that `verl.trainer.main_ppo` composed.

    Raises:
        ValueError: naming the key, its value and what to set instead. Nothing of Ray has started then.
    """
    trainer = config["trainer"]
    if not is_sdpo(config):
        if trainer["v1"]["trainer_mode"] == TRAINER_MODE:
            raise ValueError(
                f"trainer.v1.trainer_mode={TRAINER_MODE} builds teacher batches, which "
                f"actor_rollout_ref.actor.policy_loss.loss_mode="
                f"{config['actor_rollout_ref']['actor']['policy_loss']['loss_mode']} never reads. "
                f"Set trainer.v1.trainer_mode=sync, or loss_mode={LOSS_MODE}."
            )
        return
    if not trainer["use_v1"] or trainer["v1"]["trainer_mode"] != TRAINER_MODE:
        raise ValueError(
            f"actor_rollout_ref.actor.policy_loss.loss_mode={LOSS_MODE} under trainer.use_v1={trainer['use_v1']}, "
            f"trainer.v1.trainer_mode={trainer['v1']['trainer_mode']}: that trainer builds no teacher batches. "
            f"Start with --config-name sdpo, or set trainer.use_v1=True and trainer.v1.trainer_mode={TRAINER_MODE}."
        )
    actor, ref, model = (config["actor_rollout_ref"][name] for name in ("actor", "ref", "model"))
    if "self_distillation" not in actor:
        raise ValueError(
            f"loss_mode={LOSS_MODE} without {BLOCK}: start with --config-name sdpo, which brings the block."
        )
    # The tree is checked as it is; the dataclass repeats its own checks whenever verl builds it.
    values = {key: value for key, value in actor["self_distillation"].items() if key != "_target_"}
    known = [field.name for field in fields(SelfDistillationConfig)]
    for key, value in values.items():
        if key not in known:
            raise ValueError(f"{BLOCK}.{key}={value!r}: there is no such key. Remove it, or use one of {known}.")
    block = SelfDistillationConfig(**values)
    _validate_model(actor, ref, model, block.teacher_regularization)
    _validate_reference(config, block.teacher_regularization)
    _validate_lengths(config, block.max_reprompt_len)
    _validate_micro_batches(config)
    _validate_normalisation(actor)
    _validate_text_only(config["data"])


def _validate_model(actor: Mapping, ref: Mapping, model: Mapping, teacher: str) -> None:
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
            f"actor_rollout_ref.model.use_fused_kernels=True with {BLOCK}.teacher_regularization={teacher}: fused "
            "kernels never hand out the logits that student and teacher are compared on. Set use_fused_kernels=False."
        )
    if model.get("lora_rank", 0) or model.get("lora_adapter_path") or (model.get("lora") or {}).get("rank", 0):
        raise ValueError(
            f"actor_rollout_ref.model.lora_rank={model.get('lora_rank')}, lora_adapter_path="
            f"{model.get('lora_adapter_path')}, lora.rank={(model.get('lora') or {}).get('rank')}: SDPO keeps a full "
            "copy of the model as its teacher and does not support LoRA. Set the ranks to 0 and lora_adapter_path=null."
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


def _validate_reference(config: Mapping, teacher: str) -> None:
    if config["algorithm"]["use_kl_in_reward"]:
        raise ValueError(
            f"algorithm.use_kl_in_reward=True with loss_mode={LOSS_MODE}: it changes advantages, which SDPO does not "
            "read. Set algorithm.use_kl_in_reward=False; a KL to the initial model is actor.use_kl_loss=True with "
            f"{BLOCK}.teacher_regularization=trust-region or frozen."
        )
    if teacher == "ema":
        if config["actor_rollout_ref"]["actor"]["use_kl_loss"]:
            raise ValueError(
                f"actor_rollout_ref.actor.use_kl_loss=True with {BLOCK}.teacher_regularization=ema: the reference "
                "model is the moving teacher, no fixed reference is left for the KL. Set use_kl_loss=False, or "
                "teacher_regularization=trust-region."
            )
        dtype = config["actor_rollout_ref"]["ref"]["fsdp_config"]["model_dtype"]
        if dtype not in ("fp32", "float32"):
            raise ValueError(
                f"actor_rollout_ref.ref.fsdp_config.model_dtype={dtype} with {BLOCK}.teacher_regularization=ema: "
                "small EMA updates round to nothing below float32. Set model_dtype=fp32 (compute stays in the "
                "mixed_precision dtype)."
            )
    if (config.get("distillation") or {}).get("enabled", False):
        raise ValueError(
            f"distillation.enabled=True with loss_mode={LOSS_MODE}: verl's own distillation brings another teacher and "
            "replaces the loss. Set distillation.enabled=False."
        )


def _validate_lengths(config: Mapping, max_reprompt_len: int) -> None:
    actor = config["actor_rollout_ref"]["actor"]
    longest = max_reprompt_len + config["data"]["max_response_length"]
    if actor["use_dynamic_bsz"] and longest > actor["ppo_max_token_len_per_gpu"]:
        raise ValueError(
            f"{BLOCK}.max_reprompt_len={max_reprompt_len} + data.max_response_length="
            f"{config['data']['max_response_length']} = {longest} tokens, but "
            f"actor_rollout_ref.actor.ppo_max_token_len_per_gpu={actor['ppo_max_token_len_per_gpu']}: one teacher row "
            f"would not fit into a micro-batch. Raise ppo_max_token_len_per_gpu to {longest}."
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


def _validate_micro_batches(config: Mapping) -> None:
    """GPUs and static micro-batches must divide the responses.

    verl asserts it in a Ray worker (`verl/workers/engine_workers.py:267`, `verl/workers/engine/utils.py:124`).
    """
    actor, rollout, ref = (config["actor_rollout_ref"][name] for name in ("actor", "rollout", "ref"))
    gpus = config["trainer"]["nnodes"] * config["trainer"]["n_gpus_per_node"]
    mini_batch = actor["ppo_mini_batch_size"]
    # verl pads a batch to whole mini-batches.
    batch = ceil(config["data"]["train_batch_size"] / mini_batch) * mini_batch
    checks = [
        ("actor.ppo_micro_batch_size_per_gpu", actor["use_dynamic_bsz"], mini_batch),
        ("rollout.log_prob_micro_batch_size_per_gpu", rollout["log_prob_use_dynamic_bsz"], batch),
    ]
    if actor["use_kl_loss"]:
        checks.append(("ref.log_prob_micro_batch_size_per_gpu", ref["log_prob_use_dynamic_bsz"], batch))
    if mini_batch * rollout["n"] % gpus:
        raise ValueError(
            f"actor_rollout_ref.actor.ppo_mini_batch_size={mini_batch} x rollout.n={rollout['n']} = "
            f"{mini_batch * rollout['n']} responses do not divide among {gpus} GPUs. Change either."
        )
    for key, is_dynamic, questions in checks:
        role, name = key.split(".")
        size = config["actor_rollout_ref"][role][name]
        responses = questions * rollout["n"]
        if not is_dynamic and size is not None and responses % (size * gpus):
            raise ValueError(
                f"actor_rollout_ref.{key}={size} on {gpus} GPUs does not divide {questions} questions x "
                f"rollout.n={rollout['n']} = {responses} responses. Set it to a divisor of what one GPU gets, or "
                "choose another rollout.n."
            )


def _validate_normalisation(actor: Mapping) -> None:
    if actor["loss_agg_mode"] == "seq-mean-token-sum-norm" and actor["loss_scale_factor"] is None:
        raise ValueError(
            "actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-sum-norm with loss_scale_factor=null divides by the "
            "longest response of each micro-batch, so that the gradient depends on how samples are grouped. Set "
            "loss_scale_factor, for instance to data.max_response_length."
        )


def _validate_text_only(data: Mapping) -> None:
    """Refuse parquet files with image, video or audio columns; `validate_data_files` reports missing ones."""
    import pyarrow.parquet as pq

    media = {data.get(key) for key in ("image_key", "video_key", "audio_key")} - {None}
    for file in local_files(data, "train_files"):
        if file.suffix == ".parquet" and file.is_file():
            found = media & set(pq.read_schema(file).names)
            if found:
                raise ValueError(
                    f"data.train_files: {file} has the multi-modal columns {sorted(found)}; SDPO supports text only. "
                    "Drop them, or point data.image_key / data.video_key at columns that do not exist."
                )
