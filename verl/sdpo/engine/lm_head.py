"""Replacement of a model's language-model head, at the positions that predict response tokens."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

# Key of a model's configuration that changes its logits after the head -> the value that changes nothing.
AFTER_THE_HEAD = {"final_logit_softcapping": None, "logits_scaling": 1.0, "logit_scale": 1.0, "lm_head_multiplier": 1.0}


def refuse_changed_logits(hf_config: Any) -> None:
    """Refuse a model that changes its logits after its head (a soft cap, a scale), which SDPO's heads leave out.

    Raises:
        ValueError: naming the model type, the key and its value.
    """
    for key, harmless in AFTER_THE_HEAD.items():
        value = getattr(hf_config, key, harmless)
        if value not in (harmless, None):
            raise ValueError(
                f"actor_rollout_ref.model.path: a model of type {hf_config.model_type} with {key}={value} changes its "
                "logits after the language-model head, where SDPO takes its statistics. Train a model without it, such "
                "as Qwen, Llama, Mistral or Olmo."
            )


@contextmanager
def head_replaced(model: torch.nn.Module, positions: torch.Tensor, head: Callable) -> Iterator[None]:
    """Replace the language-model head by `head`, at `positions` of the flattened (P * S) hidden states.

    `head` runs inside the original head's call, where FSDP has gathered its weight and autocast is on. A teacher prompt
    of 10k tokens times the vocabulary would be the largest tensor of the step, and none of it is needed.
    `logits_to_keep` of transformers keeps the same columns of every row, which does not fit prompts of different
    lengths.
    """
    original = model.get_output_embeddings()
    # FSDP1 may have wrapped it, and then gathers the weight of the inner module.
    original = getattr(original, "_fsdp_wrapped_module", original)
    if type(original).forward is not torch.nn.Linear.forward or "forward" in vars(original):
        raise ValueError(
            f"the model's head is {original!r} with a forward of its own; SDPO needs a plain torch.nn.Linear."
        )
    original.forward = lambda hidden: head(hidden.flatten(0, 1).index_select(0, positions), original)
    try:
        yield
    finally:
        del original.forward
