"""The doctor's look at the machine: accelerators, memory and disk against what the configuration needs."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from verl.sdpo import on_cpu
from verl.sdpo.checks import BLOCK, describe
from verl.sdpo.doctor.finding import FAIL, OK, WARN, Finding
from verl.sdpo.memory.estimate import (
    ALL_LOGITS,
    COMPARISON,
    GIB,
    MIX,
    TIGHT,
    Need,
    checkpoints_on_disk,
    cpu_total,
    estimate,
    gib,
    gpu_peaks,
    place_teacher,
)
from verl.sdpo.memory.model_size import read_model
from verl.sdpo.memory.peak import Update

SAVE_WHILE_SAMPLING = (
    "Set actor_rollout_ref.actor.fsdp_config.param_offload=True and optimizer_offload=True, lower "
    "actor_rollout_ref.rollout.gpu_memory_utilization, or use more GPUs."
)
FEWER_TOKENS = (
    "lower actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu (with dynamic batches ppo_max_token_len_per_gpu), "
    "data.max_response_length or data.max_prompt_length"
)


class GPU(NamedTuple):
    name: str
    total: int
    free: int


def find_gpus() -> list[GPU]:
    """The visible GPUs.

    Raises:
        RuntimeError: when the driver refuses, for instance because it is too old for this torch.
    """
    import torch

    return [
        GPU(torch.cuda.get_device_name(index), *reversed(torch.cuda.mem_get_info(index)))
        for index in range(torch.cuda.device_count())
    ]


def check_gpus(gpus: list[GPU], wanted: int) -> Finding:
    """Check that this node has `trainer.n_gpus_per_node` GPUs that nobody else uses."""
    if not gpus:
        return Finding(
            FAIL,
            "GPUs",
            f"none visible, {wanted} wanted",
            "Run on a GPU node with a torch built for CUDA, or with VERL_PLATFORM=cpu.",
        )
    rocr = os.environ.get("ROCR_VISIBLE_DEVICES")
    if rocr and "AMD" not in gpus[0].name:
        found = f"ROCR_VISIBLE_DEVICES={rocr} is set, which verl's workers refuse beside CUDA_VISIBLE_DEVICES"
        return Finding(FAIL, "GPUs", found, "unset ROCR_VISIBLE_DEVICES (some clusters' Slurm sets it)")
    found = f"{len(gpus)} x {gpus[0].name}, {gib(min(gpu.total for gpu in gpus))} each"
    if len(gpus) < wanted:
        return Finding(FAIL, "GPUs", f"{found}, {wanted} wanted", f"Set trainer.n_gpus_per_node={len(gpus)}.")
    taken = max(gpu.total - gpu.free for gpu in gpus)
    if taken > 0.1 * min(gpu.total for gpu in gpus):
        return Finding(WARN, "GPUs", f"{found}; {gib(taken)} of one are taken", "End the other program: nvidia-smi.")
    return Finding(OK, "GPUs", found)


def advice(update: Update) -> str:
    """Say what makes the largest part of an update smaller."""
    if update.state + update.teacher > update.passes.peak:
        return (
            "Use more GPUs, train an adapter (actor_rollout_ref.model.lora_rank=32), with FSDP2 set "
            f"actor_rollout_ref.actor.fsdp_config.offload_policy=True, or {FEWER_TOKENS}."
        )
    worst = update.passes.worst.name
    if worst == ALL_LOGITS:
        return f"Take {BLOCK}.head=chunked, or {FEWER_TOKENS}."
    if worst == COMPARISON:
        return f"Set {BLOCK}.distillation_topk, which compares a part of the vocabulary, or {FEWER_TOKENS}."
    if worst == MIX:
        return f"Take another {BLOCK}.teacher_regularization than the trust region, or {FEWER_TOKENS}."
    return f"Keep actor_rollout_ref.model.enable_gradient_checkpointing=True, and {FEWER_TOKENS}."


def check_gpu_memory(need: Need, rollout, total: int) -> Finding:
    """Check that the estimated peaks fit into a GPU of `total` bytes."""
    subject = "GPU memory"
    update, sampling, kv_cache = gpu_peaks(need, rollout, total)
    passes, worst = need.update.passes, need.update.passes.worst
    found = (
        f"estimate per GPU: update {gib(update)} (weights, gradients and Adam {gib(need.update.state)}"
        f"{f', teacher {gib(need.update.teacher)}' if need.update.teacher else ''}, gathered {gib(passes.gathered)}, "
        f"activations {gib(passes.activations)}, {worst.name} {gib(worst.bytes)}), "
        f"sampling {gib(sampling)} (of it KV cache {gib(max(kv_cache, 0))}) of {gib(total)}"
    )
    if kv_cache <= 0:
        return Finding(
            FAIL,
            subject,
            f"{found}; the engine's weights alone take {gib(need.engine_weights)}",
            "Raise actor_rollout_ref.rollout.gpu_memory_utilization or tensor_model_parallel_size.",
        )
    remedies = ((update, advice(need.update)), (sampling, SAVE_WHILE_SAMPLING))
    fix = " ".join(remedy for size, remedy in remedies if size > TIGHT * total)
    if max(update, sampling) > total:
        return Finding(FAIL, subject, found, fix)
    if fix:
        return Finding(WARN, subject, f"{found}: tight, CUDA's own memory and fragmentation are not counted", fix)
    return Finding(OK, subject, found)


def check_memory(what: str, needed: int) -> Finding:
    """Check that the machine has `needed` bytes of memory free for `what`."""
    import psutil

    available = psutil.virtual_memory().available
    found = f"estimate {gib(needed)} for {what}, {gib(available)} available"
    if needed > available:
        return Finding(FAIL, "memory", found, "End other programs, use a larger machine, or a smaller model.")
    return Finding(OK, "memory", found)


def check_disk(folder: str, checkpoint: int, copies: int | None) -> Finding:
    """Check that `trainer.default_local_dir` can be written, and has room for the checkpoints kept at once."""
    subject = "checkpoints"
    parent = next(path for path in [Path(folder).absolute(), *Path(folder).absolute().parents] if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        fix = "Set vars.ckpt_dir (SDPO_CKPT_DIR) to a folder that you may write."
        return Finding(FAIL, subject, f"{parent} cannot be written", fix)
    if copies == 0:
        return Finding(WARN, subject, "none will be saved", "Set trainer.save_freq to be able to resume.")
    free = shutil.disk_usage(parent).free
    there = len(list(Path(folder).glob("global_step_*")))
    found = (
        f"estimate {gib(checkpoint)} each, at most {copies or 'any number'} at once, {there} there, {gib(free)} free "
        f"at {parent}"
    )
    fix = "Free some space, or set vars.ckpt_dir (SDPO_CKPT_DIR) to a larger disk."
    if checkpoint * max((copies or 1) - there, 1) > free:
        return Finding(FAIL, subject, found, fix)
    if copies is None:
        return Finding(WARN, subject, found, "Set trainer.max_actor_ckpt_to_keep.")
    return Finding(OK, subject, found)


def missing_model(path: str) -> Finding:
    """A model that is not on this disk: fatal where it cannot be downloaded either."""
    found = f"{path} is not on this disk; sizes were not checked"
    offline = os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "on", "yes")
    if offline or path.startswith(("/", ".", "~")) or path.count("/") > 1:
        fix = "Set actor_rollout_ref.model.path to a model's folder, or download it on a machine with network."
        return Finding(FAIL, "model", found, fix)
    return Finding(WARN, "model", found, f"It is downloaded at the start; to check first: hf download {path}")


def broken_model(path: str, error: Exception) -> Finding:
    return Finding(FAIL, "model", f"{path}: {describe(error)}", "Check its config.json and transformers' version.")


def check_capacity(config) -> Iterator[Finding]:
    """Model, accelerators, memory and disk."""
    rollout, trainer = config.actor_rollout_ref.rollout, config.trainer
    gpus: list[GPU] = []
    if not on_cpu():
        try:
            gpus = find_gpus()
            yield check_gpus(gpus, trainer.n_gpus_per_node)
        except RuntimeError as error:
            yield Finding(FAIL, "GPUs", describe(error), "Make the driver and torch fit: nvidia-smi shows its CUDA.")
    path = config.actor_rollout_ref.model.path
    try:
        model = read_model(path, trust_remote_code=config.actor_rollout_ref.model.trust_remote_code)
    # Files that are missing or broken, an architecture unknown to transformers, the model's own code that does not run.
    except (OSError, ValueError, ImportError, AttributeError) as error:
        is_missing = isinstance(error, OSError) and not Path(path).is_dir()
        yield missing_model(path) if is_missing else broken_model(path, error)
        return
    yield Finding(OK, "model", f"{path}, {model.parameters / 1e9:.2f} billion parameters")
    if on_cpu():
        need = estimate(config, model)
        kv_cache = int(os.environ["VLLM_CPU_KVCACHE_SPACE"]) * GIB
        yield check_memory("a run with no accelerator", cpu_total(need, kv_cache))
    else:
        gpu_bytes = min((gpu.total for gpu in gpus), default=0)
        place = place_teacher(config, model, gpu_bytes)
        need = estimate(config, model, teacher_on_gpu=place is not None and place.on_gpu)
        if gpus:
            if place:
                yield Finding(OK, "teacher", str(place))
            yield check_gpu_memory(need, rollout, gpu_bytes)
        yield check_memory("what is offloaded", need.host)
    yield check_disk(trainer.default_local_dir, need.checkpoint, checkpoints_on_disk(trainer))
