"""How much memory and disk a training configuration asks for: an estimate from sizes that can be known beforehand.

Counted are weights, gradients, optimizer, teacher, the largest logits and the inference engine's share. Not counted
are activations, the layers that FSDP gathers for a moment, fragmentation and CUDA's own memory.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from verl.sdpo.config import is_lora, is_sdpo, parse_block

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GIB = 2**30
FLOAT32 = 4
BFLOAT16 = 2
# Above this share of a GPU the parts that the estimate leaves out may not fit.
TIGHT = 0.85
# verl's processes without the model: the quickstart's measured peak, 12.3 to 13.0 GiB, less what is counted here.
CPU_PROCESSES = 9 * GIB


@dataclass(frozen=True)
class Model:
    """A model on this disk, by its configuration."""

    parameters: int
    root_parameters: int
    """Those outside its layers: embeddings, last norm, head."""
    vocabulary: int
    linear_widths: int
    """Inputs and outputs of its linear layers but the head, summed: an adapter on all of them has rank times that."""


@dataclass(frozen=True)
class Need:
    """Bytes."""

    training_state: int
    """Per GPU: weights, gradients and Adam's two moments of the actor's shard; the latter two of the adapter only."""
    resident_state: int
    """Per GPU: what of it stays there while the inference engine samples."""
    teacher: int
    """Per GPU: the shard of a reference that rests there."""
    logits: int
    """Per GPU: the largest logits of an update."""
    gathered_root: int
    """Per GPU, FSDP1: what of the reference stays gathered after its forward, until it is resharded."""
    engine_weights: int
    """Per GPU: the inference engine's copy of the model."""
    host: int
    """Per node, in ordinary memory: a reference that rests there (FSDP1 with room for gradients that it never gets),
    and what is offloaded."""
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


def read_model(path: str, *, trust_remote_code: bool) -> Model:
    """Count a model's parameters by building it without storage.

    Raises:
        OSError: when there is no such model on this disk.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    return measure(module)


def measure(module: "PreTrainedModel") -> Model:
    """Count the parameters of a model that is neither sharded nor has an adapter."""
    import torch

    parameters = sum(parameter.numel() for parameter in module.parameters())
    # FSDP's units; verl asks the same attribute (verl/utils/fsdp_utils.py:102).
    layers = (child for child in module.modules() if type(child).__name__ in (module._no_split_modules or ()))
    in_layers = sum(parameter.numel() for layer in layers for parameter in layer.parameters())
    head = module.get_output_embeddings()
    linears = [each for each in module.modules() if isinstance(each, torch.nn.Linear) and each is not head]
    widths = sum(linear.in_features + linear.out_features for linear in linears)
    return Model(parameters, parameters - in_layers, module.config.get_text_config().vocab_size, widths)


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


def _logits(config: Mapping, vocabulary: int) -> int:
    """SDPO: student and teacher at the response's tokens; verl's own losses: one model at every token. In float32.

    A dynamic micro-batch counts every token of student and teacher, so each of its tokens has logits once at most.
    """
    actor, rollout = (config["actor_rollout_ref"][name] for name in ("actor", "rollout"))
    response = rollout["response_length"]
    row = 2 * response if is_sdpo(config) else rollout["prompt_length"] + response
    tokens = row * (actor["ppo_micro_batch_size_per_gpu"] or 1)
    if actor["use_dynamic_bsz"]:
        tokens = actor["ppo_max_token_len_per_gpu"]
    return tokens * vocabulary * FLOAT32


def estimate(config: Mapping, model: Model, *, teacher_on_gpu: bool = False) -> Need:
    """What the configuration needs to train `model`.

    Args:
        config: the whole Hydra tree, or of it `actor_rollout_ref`, and of `trainer` the numbers of nodes and GPUs.
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
    weights = parameters * _bytes_per_weight(engine)
    gradients = (adapter or parameters) * _bytes_per_weight(engine)
    moments = 2 * gradients
    ref_engine = actor_rollout_ref["ref"]["fsdp_config"]
    reference = parameters * _bytes_per_weight(ref_engine) * has_reference(config)
    is_fsdp1 = actor["strategy"] == "fsdp"
    root = model.root_parameters * _bytes_per_gathered_weight(ref_engine) * has_reference(config)

    stays = 0 if engine["param_offload"] else weights
    stays += 0 if engine["optimizer_offload"] else moments
    trains = weights + gradients + moments
    offloaded = weights + moments - stays
    if engine["offload_policy"]:
        # FSDP2 then steps the optimizer in ordinary memory as well.
        stays, offloaded, trains = 0, trains, 0
    # FSDP1 pins a gradient beside every offloaded shard (torch/distributed/fsdp/_flat_param.py:1261).
    in_memory = 0 if teacher_on_gpu else reference * (2 if is_fsdp1 else 1)
    keeps_teacher = is_sdpo(config) and parse_block(config).teacher_kind.saves
    saved = {"model": weights, "optimizer": moments}
    return Need(
        training_state=trains // shards,
        resident_state=stays // shards,
        teacher=reference // shards if teacher_on_gpu else 0,
        logits=_logits(config, model.vocabulary),
        gathered_root=root if is_fsdp1 else 0,
        engine_weights=model.parameters * BFLOAT16 // rollout["tensor_model_parallel_size"],
        host=(in_memory + offloaded) * gpus_per_node // shards,
        checkpoint=sum(saved.get(name, 0) for name in actor["checkpoint"]["save_contents"]) + reference * keeps_teacher,
    )


def gpu_peaks(need: Need, rollout: Mapping, gpu_bytes: int) -> tuple[int, int, int]:
    """Bytes on one GPU of `gpu_bytes`: during an update, while sampling, and of the latter the KV cache."""
    share = int(rollout["gpu_memory_utilization"] * gpu_bytes)
    update = need.training_state + need.teacher + need.logits + need.gathered_root
    update += 0 if rollout["free_cache_engine"] else share
    return update, need.resident_state + need.teacher + share, share - need.engine_weights


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
    return need.training_state + need.logits + need.host + need.engine_weights + kv_cache + CPU_PROCESSES


def checkpoints_on_disk(trainer: Mapping) -> int | None:
    """The most checkpoints that lie on disk at once; None: without limit.

    verl deletes an old one before it writes the next, except where it keeps only one: that goes last.
    """
    if trainer["save_freq"] <= 0:
        return 0
    keep = trainer["max_actor_ckpt_to_keep"]
    return None if not keep else max(keep, 2)
