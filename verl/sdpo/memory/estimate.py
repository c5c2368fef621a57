"""Estimate of the memory and disk that a training configuration needs, from sizes that are known beforehand."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from verl.sdpo.comparison import ComparingHead, compares_by_chunks
from verl.sdpo.config import is_lora, is_sdpo, parse_block
from verl.sdpo.head import FLOAT32_BYTES, HeadShape
from verl.sdpo.memory.model_size import Model
from verl.sdpo.memory.peak import (
    BFLOAT16_BYTES,
    MicroBatch,
    Moment,
    Passes,
    Rows,
    Update,
    gathered,
    kept_until_backward,
    layer_backward,
    teacher_forward,
)

GIB = 2**30
# Names of the moments of the heads.
ALL_LOGITS = "all logits at once"
CHUNKED = "the head"
COMPARISON = "the comparison of distributions"
MIX = "the mix of two models"
# verl's processes without the model: the measured peak of the quickstart, 10.6 to 11.2 GiB, less the 6.7 counted here.
CPU_PROCESSES = 9 * GIB // 2
# Above this share of a GPU, the parts that the estimate leaves out may not fit.
TIGHT = 0.85


@dataclass(frozen=True)
class Need:
    """Bytes that a configuration needs."""

    update: Update
    """Bytes of an update per GPU."""
    resident_state: int
    """Part of the update's state and of the teacher per GPU that stays while the rollout engine samples."""
    engine_weights: int
    """The rollout engine's copy of the model, per GPU."""
    host: int
    """Host memory per node: an offloaded reference (FSDP1 with room for gradients that it never gets), and the
    offloaded part of the actor."""
    checkpoint: int
    """Disk of one checkpoint, over all nodes."""


class Place(NamedTuple):
    """Placement of the weights of a teacher that is a second model."""

    on_gpu: bool
    reason: str

    def __str__(self) -> str:
        return f"its weights are {'kept on the GPU' if self.on_gpu else 'offloaded to host memory'}; {self.reason}"


def gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"


def has_reference(config: Mapping) -> bool:
    """Return whether a second, forward-only model is built: SDPO's teacher, or the reference of a KL term."""
    actor = config["actor_rollout_ref"]["actor"]
    if is_sdpo(config):
        return parse_block(config).teacher_class.needs_second_model(is_lora(config))
    return bool(config["algorithm"]["use_kl_in_reward"] or actor["use_kl_loss"]) and not is_lora(config)


def _bytes_per_weight(engine: Mapping) -> int:
    return FLOAT32_BYTES if engine["model_dtype"] in ("fp32", "float32") else BFLOAT16_BYTES


def _bytes_per_gathered_weight(engine: Mapping) -> int:
    precision = (engine.get("mixed_precision") or {}).get("param_dtype", "bf16")
    return FLOAT32_BYTES if precision in ("fp32", "float32") else BFLOAT16_BYTES


def micro_batch(config: Mapping) -> MicroBatch:
    """Return a micro-batch of the longest rows that the configuration allows.

    A group that shares its prompt is assumed to share its teacher's prompt, too.
    """
    actor_rollout_ref = config["actor_rollout_ref"]
    actor, model, rollout = (actor_rollout_ref[name] for name in ("actor", "model", "rollout"))
    response = rollout["response_length"]
    attention = (model["override_config"] or {}).get("attn_implementation", "flash_attention_2")
    # As engine/layout.py decides, except for models that cannot.
    shares = is_sdpo(config) and actor["shared_prefix"] != "off" and attention == "sdpa"
    count = actor["ppo_micro_batch_size_per_gpu"] or 1
    most_of_a_group = rollout["n"] if actor["use_dynamic_bsz"] else min(count, rollout["n"])

    def rows(prompts: int, prompt: int, most: int) -> Rows:
        length = prompt + (most_of_a_group if shares else 1) * response
        tokens = most if actor["use_dynamic_bsz"] else prompts * length
        width = tokens if model["use_remove_padding"] and not shares else min(tokens, length)
        has_mask = attention == "sdpa" and (shares or count > 1 or actor["use_dynamic_bsz"])
        return Rows(tokens, tokens * width * has_mask)

    groups = math.ceil(count / rollout["n"]) if shares else count
    # A dynamic micro-batch counts student and teacher, and the teacher's row is the longer one of a sample.
    budget = actor["ppo_max_token_len_per_gpu"]
    student = rows(groups, rollout["prompt_length"], budget // 2 if is_sdpo(config) else budget)
    teacher = rows(groups, parse_block(config).prompt.max_reprompt_len, budget) if is_sdpo(config) else Rows(0)
    scored = student.tokens if actor["use_dynamic_bsz"] or not is_sdpo(config) else count * response
    return MicroBatch(student, teacher, scored, _bytes_per_gathered_weight(actor["fsdp_config"]))


def _head(config: Mapping, model: Model, batch: MicroBatch) -> Iterator[Moment]:
    """Iterate over the moments of the language-model heads, as head, objective and teacher state them."""
    if not is_sdpo(config):
        # verl's losses hold all logits and their gradient.
        yield Moment("verl's logits", 2 * batch.itemsize * batch.responses * model.vocabulary)
        return
    block = parse_block(config)
    head, teacher, support = block.head_class, block.teacher_class, block.objective.support
    shape = HeadShape(
        batch.responses,
        model.vocabulary,
        model.hidden,
        batch.itemsize,
        is_trained=not is_lora(config),
        device_type=config["trainer"]["device"],
    )
    if compares_by_chunks(head, support):
        yield Moment(COMPARISON, ComparingHead.peak_bytes(shape, teacher_passes=teacher.passes))
        return
    yield Moment(CHUNKED if head.by_chunks else ALL_LOGITS, head.peak_bytes(shape, support))
    if head.by_chunks and (needed := teacher.peak_bytes(shape, support)):
        yield Moment(MIX, needed)


def _passes(config: Mapping, model: Model) -> Passes:
    batch, model_config = micro_batch(config), config["actor_rollout_ref"]["model"]
    checkpointing = model_config["enable_gradient_checkpointing"]
    adapter = model.linear_widths * model_config["lora_rank"] // model.layers
    backward = layer_backward(model, batch, trained=adapter or model.layer_parameters, checkpointing=checkpointing)
    is_root_gathered = model.tied or config["actor_rollout_ref"]["actor"]["strategy"] == "fsdp"
    return Passes(
        gathered(model, batch.itemsize, keeps_teacher_root=has_reference(config) and is_root_gathered),
        kept_until_backward(model, batch, checkpointing=checkpointing),
        (
            Moment("the teacher's forward pass", teacher_forward(model, batch)),
            Moment("a layer's backward pass", backward),
            *_head(config, model, batch),
        ),
    )


def estimate(config: Mapping, model: Model, *, teacher_on_gpu: bool = False) -> Need:
    """Return what the configuration needs to train `model`.

    Args:
        config: the whole Hydra tree, or a part of it: `actor_rollout_ref`, and the device and the numbers of nodes and
            GPUs of `trainer`.
        teacher_on_gpu: see `place_teacher`.
    """
    actor_rollout_ref, trainer = config["actor_rollout_ref"], config["trainer"]
    actor, rollout = actor_rollout_ref["actor"], actor_rollout_ref["rollout"]
    engine = actor["fsdp_config"]
    gpus_per_node = trainer["n_gpus_per_node"]
    gpus = gpus_per_node * trainer["nnodes"]
    shards = engine["fsdp_size"] if engine["fsdp_size"] > 0 else gpus
    adapter = model.linear_widths * actor_rollout_ref["model"]["lora_rank"]
    parameters = model.parameters + adapter
    trained = adapter or parameters
    weights = parameters * _bytes_per_weight(engine)
    gradients = trained * _bytes_per_weight(engine)
    moments = 2 * gradients
    # verl may sum gradients of micro-batches before it shards them (verl/workers/engine/fsdp/transformer_impl.py:692).
    gradient_shards = 1 if engine["use_no_sync_for_gradient_accumulation"] else shards
    ref_engine = actor_rollout_ref["ref"]["fsdp_config"]
    reference = parameters * _bytes_per_weight(ref_engine) * has_reference(config)
    is_fsdp1 = actor["strategy"] == "fsdp"

    stays = 0 if engine["param_offload"] else weights
    stays += 0 if engine["optimizer_offload"] else moments
    state = (weights + moments) // shards + gradients // gradient_shards
    # Adam takes the root of all second moments at once (torch/optim/adam.py:790), on the CPU one by one.
    optimizer_step = 0 if trainer["device"] == "cpu" else gradients // shards
    offloaded = weights + moments - stays
    if engine["offload_policy"]:
        # FSDP2 then steps the optimizer in host memory as well.
        stays, offloaded, state, optimizer_step = 0, weights + gradients + moments, 0, 0

    update = Update(state, reference // shards if teacher_on_gpu else 0, _passes(config, model), optimizer_step)
    # FSDP1 pins a gradient beside every offloaded shard (torch/distributed/fsdp/_flat_param.py:1261).
    offloaded_reference = 0 if teacher_on_gpu else reference * (2 if is_fsdp1 else 1)
    keeps_teacher = is_sdpo(config) and parse_block(config).teacher_class.saves
    saved = {"model": weights, "optimizer": moments}
    return Need(
        update=update,
        resident_state=stays // shards + update.teacher,
        engine_weights=model.parameters * BFLOAT16_BYTES // rollout["tensor_model_parallel_size"],
        host=(offloaded_reference + offloaded) * gpus_per_node // shards,
        checkpoint=sum(saved.get(name, 0) for name in actor["checkpoint"]["save_contents"]) + reference * keeps_teacher,
    )


def gpu_peaks(need: Need, rollout: Mapping, gpu_bytes: int) -> tuple[int, int, int]:
    """Return the bytes on one GPU of `gpu_bytes`: during an update, while sampling, and of the latter the KV cache."""
    share = int(rollout["gpu_memory_utilization"] * gpu_bytes)
    update = need.update.peak + (0 if rollout["free_cache_engine"] else share)
    return update, need.resident_state + share, share - need.engine_weights


def place_teacher(config: Mapping, model: Model, gpu_bytes: int) -> Place | None:
    """Choose the teacher's placement, with GPUs of `gpu_bytes`; None if it is no second model.

    Args:
        config: as for `estimate`.
    """
    if not (is_sdpo(config) and has_reference(config)):
        return None
    placement = parse_block(config).teacher_config.teacher_placement
    if placement != "auto":
        return Place(placement == "gpu", f"teacher_placement={placement}")
    need = estimate(config, model, teacher_on_gpu=True)
    update, sampling, _ = gpu_peaks(need, config["actor_rollout_ref"]["rollout"], gpu_bytes)
    return Place(
        max(update, sampling) <= TIGHT * gpu_bytes,
        f"teacher_placement=auto: with it on the GPU an update would take {gib(update)} and sampling {gib(sampling)} "
        f"of {gib(gpu_bytes)}, where {TIGHT:.0%} are the limit",
    )


def cpu_total(need: Need, kv_cache: int) -> int:
    """Return the bytes of host memory for a run without an accelerator, where everything is kept there."""
    return need.update.peak + need.host + need.engine_weights + kv_cache + CPU_PROCESSES


def checkpoints_on_disk(trainer: Mapping) -> int | None:
    """Return the most checkpoints that are on disk at once; None: without limit.

    Old ones are deleted after the next is complete (verl/sdpo/runs/checkpoints.py).
    """
    if trainer["save_freq"] <= 0:
        return 0
    keep = trainer["max_actor_ckpt_to_keep"]
    return keep + 1 if keep and keep > 0 else None
