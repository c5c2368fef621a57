"""How token rows are laid out for a model: in verl's way, packed or padded, or with their prompts shared."""

import logging
import os
from typing import Any, NamedTuple

import torch

from verl.sdpo.model import Rows
from verl.sdpo.prefix import SharedLines
from verl.utils import tensordict_utils as tu
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

logger = logging.getLogger(__name__)
logger.setLevel(os.getenv("VERL_LOGGING_LEVEL", "INFO"))

KEY = "actor_rollout_ref.actor.shared_prefix"


class Layout(NamedTuple):
    inputs: dict[str, Any]
    """What the model is called with."""
    positions: torch.Tensor
    """(N,), the places of the flattened hidden states that predict the wanted tokens."""


def shared(rows: Rows, wanted: torch.Tensor) -> Layout:
    """Each distinct prompt once."""
    lines = SharedLines.of(rows)
    inputs = {
        "input_ids": lines.input_ids,
        "position_ids": lines.position_ids,
        "attention_mask": lines.attention_mask,
    }
    return Layout(inputs, lines.predicting(wanted))


def as_verl(rows: Rows, wanted: torch.Tensor, engine: FSDPEngineWithLMHead) -> Layout:
    """Every row whole, as verl's engine makes a model's inputs."""
    is_packed = engine.model_config.use_remove_padding
    offsets = rows.input_ids.offsets()
    lengths = offsets.diff()
    position_ids = torch.arange(int(offsets[-1]), device=offsets.device) - offsets[:-1].repeat_interleave(lengths)
    jagged = {
        "input_ids": rows.input_ids,
        "position_ids": torch.nested.nested_tensor_from_jagged(position_ids, offsets),
    }
    settings = {"use_remove_padding": is_packed, "temperature": 1.0}
    inputs, _ = engine.prepare_model_inputs(micro_batch=tu.get_tensordict(jagged, non_tensor_dict=settings))
    width = inputs["input_ids"].shape[1]
    starts = offsets[:-1] if is_packed else torch.arange(len(lengths), device=offsets.device) * width
    return Layout(inputs, predicting_positions(rows, wanted, starts))


def predicting_positions(rows: Rows, wanted: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    """(N,), the places that predict the wanted response tokens, where row b begins at starts[b]."""
    first = starts + rows.input_ids.offsets().diff() - rows.response_lens - 1
    row, step = wanted.nonzero(as_tuple=True)
    # What stands at place i predicts token i + 1.
    return first[row] + step


def shares_prefixes(setting: str, model: torch.nn.Module) -> bool:
    """Whether the rows of a micro-batch share their prompts.

    Raises:
        ValueError: when `on` is asked of a model that cannot.
    """
    if setting == "off":
        return False
    obstacle = obstacle_to_sharing(model)
    if obstacle is None:
        return True
    if setting == "on":
        raise ValueError(f"{KEY}=on, but {obstacle}. Set it to auto or off.")
    logger.info("Prompts are computed once per response (%s=auto): %s.", KEY, obstacle)
    return False


def obstacle_to_sharing(model: torch.nn.Module) -> str | None:
    """Why prompts cannot be shared with this model, if so: it takes a mask of our own, and attention that has neither
    a window nor a state.
    """
    config = model.config
    if config._attn_implementation != "sdpa":
        return f"attn_implementation is {config._attn_implementation}, and only sdpa takes the mask that this needs"
    kinds = set(getattr(config, "layer_types", None) or []) - {"full_attention"}
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        kinds.add("sliding_attention")
    if getattr(model, "_is_stateful", False):
        kinds.add("layers with a state")
    if kinds:
        return f"a model of type {config.model_type} has {', '.join(sorted(kinds))}"
    return None
