"""Shards of LoRA's weights: base W (out, in), adapter A (rank, in) and B (out, rank), merged W + scaling * B @ A.

FSDP's units must be resharded; `merged_shards` is collective.
"""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from peft.tuners.lora import Linear, LoraLayer
from torch.distributed import ProcessGroup
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from verl.sdpo.checks import refusal
from verl.sdpo.config import is_lora

ADAPTER = "default"


class Part(NamedTuple):
    """This rank's shard of one parameter."""

    module: torch.nn.Module
    name: str
    local: torch.Tensor
    """(n,), sharing the parameter's storage; empty where other ranks hold all of it."""
    start: int
    """Index of the first element in the flattened parameter."""
    shape: torch.Size
    group: ProcessGroup
    """The ranks over which the parameter is sharded."""


def base_shards(model: torch.nn.Module) -> Iterator[torch.Tensor]:
    """Iterate over this rank's shards of the base weights, flat, sharing their storage."""
    adapters = _adapters(model)
    return (part.local for part in _parts(model) if part.module not in adapters)


def merged_shards(model: torch.nn.Module, device: torch.device | int) -> Iterator[torch.Tensor]:
    """Iterate over the same shards of the merged weights, on `device`; in float32 where there is an adapter."""
    layers = {layer.base_layer: layer for layer in _layers(model)}
    adapters = _adapters(model)
    parts = list(_parts(model))
    factors = {part.module: part for part in parts if part.module in adapters}
    for part in parts:
        if part.module in adapters:
            continue
        local = part.local.to(device)
        if part.module in layers and part.name == "weight":
            layer = layers[part.module]
            # A and B are small enough to be gathered whole on every rank; W stays sharded.
            a, b = (_gather(factors[_unwrapped(each[ADAPTER])], device) for each in (layer.lora_A, layer.lora_B))
            delta = layer.scaling[ADAPTER] * (b @ a)
            local = local.float() + delta.flatten()[part.start : part.start + len(local)]
        yield local


def _layers(model: torch.nn.Module) -> list[Linear]:
    """Return the layers with an adapter.

    Raises:
        ValueError: when one is no plain linear layer.
    """
    layers = []
    for layer in model.modules():
        if isinstance(layer, Linear) and not layer.fan_in_fan_out:
            layers.append(layer)
        elif isinstance(layer, LoraLayer):
            raise ValueError(
                f"LoRA on {layer.get_base_layer()!r}: SDPO merges adapters of torch.nn.Linear only. Set "
                "actor_rollout_ref.model.target_modules to linear layers."
            )
    return layers


def _adapters(model: torch.nn.Module) -> set[torch.nn.Module]:
    """Return the modules that hold an A or a B."""
    factors = (each for layer in _layers(model) for each in (layer.lora_A, layer.lora_B))
    return {_unwrapped(each[ADAPTER]) for each in factors}


def _unwrapped(module: torch.nn.Module) -> torch.nn.Module:
    """Return the module inside FSDP1's wrapper, which verl puts around every A and B."""
    return getattr(module, "_fsdp_wrapped_module", module)


def _parts(model: torch.nn.Module) -> Iterator[Part]:
    """Iterate over every parameter once, in the same order on every rank."""
    if isinstance(model, FSDP):
        for unit in FSDP.fsdp_modules(model):
            yield from _flat_parts(unit)
        return
    seen = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter in seen:
                continue  # tied embeddings
            seen.add(parameter)
            mesh = parameter.device_mesh
            _, offset = compute_local_shape_and_global_offset(parameter.shape, mesh, parameter.placements)
            # FSDP2 shards the first dimension.
            start = offset[0] * math.prod(parameter.shape[1:])
            local = parameter.detach().to_local().view(-1)
            yield Part(module, name, local, start, parameter.shape, mesh.get_group(mesh.ndim - 1))


def _flat_parts(unit: FSDP) -> Iterator[Part]:
    """Iterate over the parameters of a unit of FSDP1, which lie end to end; a rank holds one stretch of them."""
    handle = unit._handle
    if handle is None:
        return
    flat = handle.flat_param
    for info, shape, shard in zip(flat._param_infos, flat._shapes, flat._shard_param_infos, strict=True):
        offset, length, start = (
            (shard.offset_in_shard, shard.numel_in_shard, shard.intra_param_start_idx) if shard.in_shard else (0, 0, 0)
        )
        local = flat.data[offset : offset + length]
        yield Part(info.module, info.param_name, local, start, shape, handle.process_group)


def _gather(part: Part, device: torch.device | int) -> torch.Tensor:
    """Return the whole parameter in float32, on `device`."""
    whole = torch.zeros(part.shape.numel(), device=device)
    whole[part.start : part.start + len(part.local)] = part.local.to(device)
    torch.distributed.all_reduce(whole, group=part.group)
    return whole.view(part.shape)


def check(config: Mapping) -> None:
    """Refuse adapters that SDPO cannot merge, or that the initial model would keep."""
    model = config["actor_rollout_ref"]["model"]
    if model.get("lora_adapter_path"):
        raise refusal(
            {"actor_rollout_ref.model.lora_adapter_path": model["lora_adapter_path"]},
            "the initial model would not be the student without its adapter, which is what SDPO's teachers begin with",
            "Set lora_adapter_path=null, and actor_rollout_ref.model.path to a model with that adapter merged into it.",
        )
    if (model.get("lora") or {}).get("rank", 0):
        rank = model["lora"]["rank"]
        raise refusal(
            {"actor_rollout_ref.model.lora.rank": rank},
            "that is Megatron's LoRA, and SDPO runs on FSDP",
            f"Set lora.rank=0 and actor_rollout_ref.model.lora_rank={rank}.",
        )
    if not is_lora(config):
        return
    targets = model.get("target_modules", "all-linear")
    targets = [targets] if isinstance(targets, str) else list(targets or [])
    if model.get("target_parameters") or {"lm_head", "embed_tokens"} & set(targets):
        raise refusal(
            {
                "actor_rollout_ref.model.target_modules": targets,
                "actor_rollout_ref.model.target_parameters": model.get("target_parameters"),
            },
            "SDPO reads hidden states at the language-model head, and merges adapters of linear layers only",
            "Leave out lm_head and embed_tokens, and set target_parameters=null.",
        )
    actor = config["actor_rollout_ref"]["actor"]
    engine = actor["fsdp_config"]
    smallest = engine["wrap_policy"].get("min_num_params", 0)
    if actor["strategy"] == "fsdp" and smallest > 0 and not engine["use_orig_params"]:
        raise refusal(
            {
                "actor_rollout_ref.actor.fsdp_config.wrap_policy.min_num_params": smallest,
                "actor_rollout_ref.model.lora_rank": model["lora_rank"],
                "actor_rollout_ref.actor.strategy": "fsdp",
                "actor_rollout_ref.actor.fsdp_config.use_orig_params": False,
            },
            "verl then puts adapter and frozen base into one flat parameter, which FSDP1 refuses",
            "Set min_num_params=0, for actor and ref.",
        )
