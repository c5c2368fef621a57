"""How much memory and disk a training configuration asks for: an estimate from sizes that can be known beforehand."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from verl.sdpo.config import is_lora, is_sdpo, parse_block
from verl.sdpo.head import CHUNK_TOKENS, CHUNK_TOKENS_ON_ACCELERATOR, COMPARED_TOKENS_ON_ACCELERATOR
from verl.sdpo.memory.model_size import Model
from verl.sdpo.memory.peak import (
    BFLOAT16,
    EAGER_COPIES,
    FLOAT32,
    WHOLE_VOCABULARY_COPIES,
    MicroBatch,
    Moment,
    Passes,
    Rows,
    Update,
    all_logits,
    chunked_head,
    compared_distributions,
    gathered,
    kept_until_backward,
    layer_backward,
    mixed_logits,
    teacher_forward,
)

GIB = 2**30
ALL_LOGITS = "all logits at once"
COMPARISON = "the comparison of distributions"
MIX = "the mix of two models"
# verl's processes without the model: the quickstart's measured peak, 10.6 to 11.2 GiB, less the 6.7 counted here.
CPU_PROCESSES = 9 * GIB // 2
# Above this share of a GPU the parts that the estimate leaves out may not fit.
TIGHT = 0.85


@dataclass(frozen=True)
class Need:
    """Bytes."""

    update: Update
    """Per GPU."""
    resident_state: int
    """Per GPU: what of the update's state, and of the teacher, stays there while the inference engine samples."""
    engine_weights: int
    """Per GPU: the inference engine's copy of the model."""
    host: int
    """Per node, in ordinary memory: a reference that rests there (FSDP1 with room for gradients that it never
    gets), and what is offloaded."""
    checkpoint: int
    """On disk, over all nodes: one checkpoint."""


class Place(NamedTuple):
    """Where the weights of a teacher that is a second model rest."""

    on_gpu: bool
    reason: str

    def __str__(self) -> str:
        return f"its weights rest {'on the GPU' if self.on_gpu else 'in ordinary memory'}; {self.reason}"


def gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"


def has_reference(config: Mapping) -> bool:
    """Whether a second, forward-only model is built: SDPO's teacher, or the reference of a KL term."""
    actor = config["actor_rollout_ref"]["actor"]
    if is_sdpo(config):
        return parse_block(config).teacher_kind.needs_second_model(is_lora(config))
    return bool(config["algorithm"]["use_kl_in_reward"] or actor["use_kl_loss"]) and not is_lora(config)


def _bytes_per_weight(engine: Mapping) -> int:
    return FLOAT32 if engine["model_dtype"] in ("fp32", "float32") else BFLOAT16


def _bytes_per_gathered_weight(engine: Mapping) -> int:
    precision = (engine.get("mixed_precision") or {}).get("param_dtype", "bf16")
    return FLOAT32 if precision in ("fp32", "float32") else BFLOAT16


def micro_batch(config: Mapping) -> MicroBatch:
    """With the longest rows that the configuration allows; a group that shares its prompt has one of its teacher."""
    actor_rollout_ref = config["actor_rollout_ref"]
    actor, model, rollout = (actor_rollout_ref[name] for name in ("actor", "model", "rollout"))
    response = rollout["response_length"]
    attention = (model["override_config"] or {}).get("attn_implementation", "flash_attention_2")
    # As engine/layout.py decides, but for models that cannot.
    shares = is_sdpo(config) and actor["shared_prefix"] != "off" and attention == "sdpa"
    count = actor["ppo_micro_batch_size_per_gpu"] or 1
    most_of_a_group = rollout["n"] if actor["use_dynamic_bsz"] else min(count, rollout["n"])

    def rows(prompts: int, prompt: int, most: int) -> Rows:
        line = prompt + (most_of_a_group if shares else 1) * response
        tokens = most if actor["use_dynamic_bsz"] else prompts * line
        width = tokens if model["use_remove_padding"] and not shares else min(tokens, line)
        has_mask = attention == "sdpa" and (shares or count > 1 or actor["use_dynamic_bsz"])
        return Rows(tokens, tokens * width * has_mask)

    groups = math.ceil(count / rollout["n"]) if shares else count
    # A dynamic one counts student and teacher, whose row is the longer of a sample.
    budget = actor["ppo_max_token_len_per_gpu"]
    student = rows(groups, rollout["prompt_length"], budget // 2 if is_sdpo(config) else budget)
    teacher = rows(groups, parse_block(config).prompt.max_reprompt_len, budget) if is_sdpo(config) else Rows(0)
    scored = student.tokens if actor["use_dynamic_bsz"] or not is_sdpo(config) else count * response
    return MicroBatch(student, teacher, scored, _bytes_per_gathered_weight(actor["fsdp_config"]))


def _head(config: Mapping, model: Model, batch: MicroBatch) -> Iterator[Moment]:
    """verl's losses hold all logits and their gradient; ours what head, objective and teacher ask for."""
    if not is_sdpo(config):
        yield Moment("verl's logits", 2 * batch.itemsize * batch.responses * model.vocabulary)
        return
    block = parse_block(config)
    reads_all = block.objective.outcomes.all
    if not block.head.by_chunks:
        yield Moment(ALL_LOGITS, all_logits(model, batch, WHOLE_VOCABULARY_COPIES if reads_all else EAGER_COPIES))
        return
    chunk_tokens = CHUNK_TOKENS if config["trainer"]["device"] == "cpu" else CHUNK_TOKENS_ON_ACCELERATOR
    is_trained, kept = not is_lora(config), block.teacher_kind.num_forwards
    if reads_all:
        chunk_tokens = min(chunk_tokens, COMPARED_TOKENS_ON_ACCELERATOR)
        needed = compared_distributions(model, batch, chunk_tokens=chunk_tokens, kept=kept, is_trained=is_trained)
        yield Moment(COMPARISON, needed)
        return
    yield Moment("the head", chunked_head(model, batch, chunk_tokens=chunk_tokens, is_trained=is_trained))
    if block.teacher_kind.mixes_logits:
        yield Moment(MIX, mixed_logits(model, batch, chunk_tokens=chunk_tokens, kept=kept))


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
    """What the configuration needs to train `model`.

    Args:
        config: the whole Hydra tree, or of it `actor_rollout_ref`, and of `trainer` the device and the numbers of nodes
            and GPUs.
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
    # Adam takes the root of all second moments at once (torch/optim/adam.py:790), on the CPU one after the other.
    optimizer_step = 0 if trainer["device"] == "cpu" else gradients // shards
    offloaded = weights + moments - stays
    if engine["offload_policy"]:
        # FSDP2 then steps the optimizer in ordinary memory as well.
        stays, offloaded, state, optimizer_step = 0, weights + gradients + moments, 0, 0

    update = Update(state, reference // shards if teacher_on_gpu else 0, _passes(config, model), optimizer_step)
    # FSDP1 pins a gradient beside every offloaded shard (torch/distributed/fsdp/_flat_param.py:1261).
    in_memory = 0 if teacher_on_gpu else reference * (2 if is_fsdp1 else 1)
    keeps_teacher = is_sdpo(config) and parse_block(config).teacher_kind.saves
    saved = {"model": weights, "optimizer": moments}
    return Need(
        update=update,
        resident_state=stays // shards + update.teacher,
        engine_weights=model.parameters * BFLOAT16 // rollout["tensor_model_parallel_size"],
        host=(in_memory + offloaded) * gpus_per_node // shards,
        checkpoint=sum(saved.get(name, 0) for name in actor["checkpoint"]["save_contents"]) + reference * keeps_teacher,
    )


def gpu_peaks(need: Need, rollout: Mapping, gpu_bytes: int) -> tuple[int, int, int]:
    """Bytes on one GPU of `gpu_bytes`: during an update, while sampling, and of the latter the KV cache."""
    share = int(rollout["gpu_memory_utilization"] * gpu_bytes)
    update = need.update.peak + (0 if rollout["free_cache_engine"] else share)
    return update, need.resident_state + share, share - need.engine_weights


def place_teacher(config: Mapping, model: Model, gpu_bytes: int) -> Place | None:
    """Where the teacher rests, with GPUs of `gpu_bytes`; None where it is no second model. config as for `estimate`."""
    if not (is_sdpo(config) and has_reference(config)):
        return None
    placement = parse_block(config).teacher.teacher_placement
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
    """Bytes of ordinary memory for a run with no accelerator, where everything lies there."""
    return need.update.peak + need.host + need.engine_weights + kv_cache + CPU_PROCESSES


def checkpoints_on_disk(trainer: Mapping) -> int | None:
    """The most checkpoints that lie on disk at once; None: without limit.

    Old ones go after the next is written and named (verl/sdpo/runs/checkpoints.py).
    """
    if trainer["save_freq"] <= 0:
        return 0
    keep = trainer["max_actor_ckpt_to_keep"]
    return keep + 1 if keep and keep > 0 else None
