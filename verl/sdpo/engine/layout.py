"""Layout of token rows for a model: in verl's way, packed or padded, or with packed prefixes."""

import logging
import os
from typing import Any, NamedTuple

import torch

from verl.sdpo.model import Rows
from verl.sdpo.prefix import PackedPrefixes
from verl.utils import tensordict_utils as tu
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

logger = logging.getLogger(__name__)
logger.setLevel(os.getenv("VERL_LOGGING_LEVEL", "INFO"))

KEY = "actor_rollout_ref.actor.shared_prefix"


class Layout(NamedTuple):
    inputs: dict[str, Any]
    """The model's arguments."""
    positions: torch.Tensor
    """(N,), indices into the flattened hidden states that predict the masked tokens."""


def shared(rows: Rows, mask_BT: torch.Tensor) -> Layout:
    """Lay out each distinct prompt once."""
    packed = PackedPrefixes.of(rows)
    inputs = {
        "input_ids": packed.input_ids,
        "position_ids": packed.position_ids,
        "attention_mask": packed.attention_mask,
    }
    return Layout(inputs, packed.predicting(mask_BT))


def as_verl(rows: Rows, mask_BT: torch.Tensor, engine: FSDPEngineWithLMHead) -> Layout:
    """Lay out every row whole, with the model inputs of verl's engine."""
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
    return Layout(inputs, predicting_positions(rows, mask_BT, starts))


def predicting_positions(rows: Rows, mask_BT: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    """Return the (N,) indices that predict the masked response tokens, where row b begins at starts[b]."""
    first = starts + rows.input_ids.offsets().diff() - rows.response_lens - 1
    row, step = mask_BT.nonzero(as_tuple=True)
    # The hidden state at index i predicts token i + 1.
    return first[row] + step


def shares_prefixes(setting: str, model: torch.nn.Module) -> bool:
    """Return whether the rows of a micro-batch share their prompts.

    Raises:
        ValueError: when the setting is `on` and the model cannot.
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
    """Return why prompts cannot be shared with this model, None if they can.

    Sharing takes a custom attention mask, and attention that has neither a window nor a state.
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
