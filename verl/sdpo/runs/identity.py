"""A run never continues another configuration.

verl resumes whatever is saved under a run's name. So every checkpoint holds the configuration that it was trained with,
and before Ray starts that is compared with the one that would go on from it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl.sdpo.runs.checkpoints import folder_of, newest_complete, replace

RECORD = "run_config.json"

# Keys that may change from one start of a run to the next: they say where it runs, what it reports and when it ends,
# and change no step that it takes. Patterns, in which * also matches dots.
MAY_DIFFER = """
    trainer.*  insight.*  global_profiler.*  *.profiler.*  *.rollout.trace.*  test_time.log  *.max_grader_error_rate
    *.self_distillation.head  *.self_distillation.teacher_placement  *.grader_timeout
    vars.dir  vars.log_dir  vars.ckpt_dir
    data.val_*  data.validation_shuffle  *.val_kwargs.*  *.hidden_file
    ray_kwargs.*  transfer_queue.*  skip.*  *.nccl_timeout  *num_workers  *overlong_prompts_workers  *.n_gpus_per_node
    *micro_batch_size*  *max_token_len_per_gpu  *use_dynamic_bsz  *.use_torch_compile  *sandbox*  *._target_
    *.override_optimizer_config.fused  *.override_optimizer_config.foreach
    *.param_offload  *.optimizer_offload  *.offload_policy  *.reshard_after_forward  *.forward_prefetch
    *.use_shm  *.enable_gradient_checkpointing  *.enable_activation_offload  *.checkpoint.*
    *.rollout.checkpoint_engine.*  *.rollout.gpu_memory_utilization  *.rollout.*_parallel_size
    *.rollout.max_num_batched_tokens  *.rollout.max_num_seqs  *.rollout.enforce_eager
    *.rollout.free_cache_engine  *.rollout.enable_sleep_mode  *.rollout.enable_chunked_prefill
    *.rollout.enable_prefix_caching  *.rollout.load_format  *.rollout.cudagraph_capture_sizes
    *.rollout.layered_summon  *.rollout.multi_stage_wake_up  *.rollout.disable_log_stats  *.rollout.nnodes
    *.rollout.engine_kwargs.*  *.rollout.prometheus.*  *.rollout.disaggregation.*
"""
# ... but for these.
MAY_NOT = ("trainer.balance_batch", "trainer.critic_warmup", "trainer.use_v1", "trainer.v1.*")
# The block once more, for the refilling sampler.
COPIES = ("trainer.v1.sampler.sampler_kwargs.self_distillation.*",)
# With a learning rate that falls towards the end of a run, its length changes every step.
LENGTH = ("trainer.total_epochs", "trainer.total_training_steps")


def record(config: Mapping, checkpoint: Path) -> None:
    """Write the configuration into the folder of a checkpoint, before it is named as the latest.

    Args:
        config: of `plain`, taken before the trainer changed any of it.
    """
    checkpoint.mkdir(parents=True, exist_ok=True)
    replace(checkpoint / RECORD, json.dumps(config, indent=1))


def plain(config: DictConfig) -> dict[str, Any]:
    """The Hydra tree with its interpolations resolved, as JSON has it."""
    return json.loads(json.dumps(OmegaConf.to_container(config, resolve=True), default=str))


def check(config: DictConfig) -> None:
    """Refuse to continue a run that was trained with another configuration.

    A checkpoint that holds none (of another trainer) is let through, as is one that `trainer.resume_from_path` names.

    Raises:
        ValueError: naming each key that differs, with both values; or there is no complete checkpoint to continue from.
    """
    trainer = config["trainer"]
    step, _ = newest_complete(trainer)
    if step is None:
        return
    checkpoint = folder_of(Path(trainer["default_local_dir"]), step)
    if not (checkpoint / RECORD).is_file():
        return
    before, now = (dict(_identity(tree)) for tree in (json.loads((checkpoint / RECORD).read_text()), plain(config)))
    absent = "absent"
    changes = [
        f"  {key}: was {before.get(key, absent)!r}, now {now.get(key, absent)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key, absent) != now.get(key, absent)
    ]
    if changes:
        raise ValueError(
            f"trainer.experiment_name={trainer['experiment_name']} would continue {checkpoint}, which was trained with "
            "another configuration:\n"
            + "\n".join(changes)
            + "\nTake these values back to continue it; or start another run, under another trainer.experiment_name "
            "(EXPERIMENT); or move the folder of its checkpoints away."
        )


def _identity(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what changes training, as flat keys. Paths below `vars.dir` are relative to it: the folder may move."""
    folder = tree.get("vars", {}).get("dir", "")
    optim = tree["actor_rollout_ref"]["actor"]["optim"]
    falls = optim["lr_scheduler_type"] != "constant" or (optim["lr_warmup_steps_ratio"] or 0) > 0
    fixed = LENGTH if falls else ()
    for key, value in _flat(tree):
        if _matches(key, COPIES):
            continue
        if trains(key) or _matches(key, fixed):
            yield key, value.removeprefix(f"{folder}/") if isinstance(value, str) else value


def trains(key: str) -> bool:
    """Return whether a key changes what a step does, so that a run cannot go on with another value."""
    return _matches(key, MAY_NOT) or not _matches(key, MAY_DIFFER.split())


def _matches(key: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
