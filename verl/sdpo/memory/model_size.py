"""Sizes of a model on this disk, read off its configuration."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Model:
    parameters: int
    root_parameters: int
    """Parameters outside its layers: embeddings, last norm, head."""
    vocabulary: int
    linear_widths: int
    """Sum of the inputs and outputs of all linear layers but the head; an adapter on all has rank times as many
    parameters."""
    layers: int
    hidden: int
    queries: int
    """Width of all query heads together."""
    keys: int
    """Width of all key heads together, and of all value heads."""
    feed_forward: int
    """Inner width of a layer's feed-forward part; in a mixture, of all experts that a token visits."""
    norms_queries: bool
    """True if queries and keys are normalised, as in Qwen3."""
    tied: bool
    """True if the head is the embedding."""

    @property
    def layer_parameters(self) -> int:
        """Parameters of one layer."""
        return (self.parameters - self.root_parameters) // self.layers


def read_model(path: str, *, trust_remote_code: bool) -> Model:
    """Read the sizes of a model by building it without storage.

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
    """Measure a model that is neither sharded nor has an adapter."""
    import torch

    parameters = sum(parameter.numel() for parameter in module.parameters())
    # FSDP's units; verl reads the same attribute (verl/utils/fsdp_utils.py:102).
    layers = [child for child in module.modules() if type(child).__name__ in (module._no_split_modules or ())]
    in_layers = sum(parameter.numel() for layer in layers for parameter in layer.parameters())
    head = module.get_output_embeddings()
    linears = [each for each in module.modules() if isinstance(each, torch.nn.Linear) and each is not head]
    text = module.config.get_text_config()
    heads = text.num_attention_heads
    head_size = getattr(text, "head_dim", None) or text.hidden_size // heads
    return Model(
        parameters=parameters,
        root_parameters=parameters - in_layers,
        vocabulary=text.vocab_size,
        linear_widths=sum(linear.in_features + linear.out_features for linear in linears),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        queries=heads * head_size,
        keys=(getattr(text, "num_key_value_heads", None) or heads) * head_size,
        # A family that does not name it (GPT-2) has four times the hidden size.
        feed_forward=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        norms_queries=any(name.endswith("q_norm") for name, _ in module.named_modules()),
        tied=head.weight is module.get_input_embeddings().weight,
    )
