"""Putting a head of ours in the place of a model's own, at the positions that predict response tokens."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

# What models do to logits after the head, by the key of their configuration, and the value that does nothing.
AFTER_THE_HEAD = {"final_logit_softcapping": None, "logits_scaling": 1.0, "logit_scale": 1.0, "lm_head_multiplier": 1.0}


def refuse_changed_logits(hf_config: Any) -> None:
    """
    Raises:
        ValueError: when the model changes logits after its head (a soft cap, a scale), which a head of ours leaves out.
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
def head_replaced(model: torch.nn.Module, positions: torch.Tensor, at_head: Callable) -> Iterator[None]:
    """Let `at_head` stand in for the language-model head, at `positions` of the flattened (B * L) hidden states.

    It runs inside the head's own call, where FSDP has gathered its weight and autocast is on. A teacher prompt of 10k
    tokens times the vocabulary would be the largest tensor of the step, and none of it is needed. `logits_to_keep` of
    transformers keeps the same columns of every row, which does not fit rows with prompts of different lengths.
    """
    head = model.get_output_embeddings()
    # FSDP1 may have wrapped it: what it gathers then is the inner module's.
    head = getattr(head, "_fsdp_wrapped_module", head)
    if type(head).forward is not torch.nn.Linear.forward or "forward" in vars(head):
        raise ValueError(f"the model's head is {head!r} with a forward of its own; SDPO needs a plain torch.nn.Linear.")
    head.forward = lambda hidden: at_head(hidden.flatten(0, 1).index_select(0, positions), head)
    try:
        yield
    finally:
        del head.forward
