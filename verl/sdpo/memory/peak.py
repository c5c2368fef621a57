"""Peak of the memory that is alive on one GPU during an update, from the list of its tensors.

The tensors that a layer keeps for its backward pass were read from transformers' Llama and Qwen3, and
tests/sdpo/memory/test_peak.py compares the sums with torch.profiler's. Heads and teachers state their own memory
(`Head.peak_bytes`, `Teacher.peak_bytes`).

Not counted are the objective's tensors of the support, fragmentation and CUDA's own memory.
"""

from dataclasses import dataclass
from typing import NamedTuple

from verl.sdpo.head import FLOAT32_BYTES
from verl.sdpo.memory.model_size import Model

BFLOAT16_BYTES = 2


class Rows(NamedTuple):
    """The token rows of a micro-batch as one model reads them."""

    tokens: int
    """Number of tokens, with prompts and padding."""
    mask: int = 0
    """Elements of the attention mask; 0 where there is none, as with flash attention."""


@dataclass(frozen=True)
class MicroBatch:
    student: Rows
    teacher: Rows
    responses: int
    """Number of response tokens."""
    itemsize: int
    """Bytes of a number that is computed with."""


class Moment(NamedTuple):
    """A moment of an update, with the bytes that are alive only then."""

    name: str
    bytes: int


@dataclass(frozen=True)
class Passes:
    """Bytes on one GPU during the forward and backward passes of a micro-batch, besides models and optimizer."""

    gathered: int
    """Weights that FSDP gathers."""
    activations: int
    """Activations that the student's layers keep from its forward pass to its backward pass."""
    moments: tuple[Moment, ...]
    """Moments that follow each other."""

    @property
    def worst(self) -> Moment:
        return max(self.moments, key=lambda moment: moment.bytes)

    @property
    def peak(self) -> int:
        return self.gathered + self.activations + self.worst.bytes


@dataclass(frozen=True)
class Update:
    """Bytes on one GPU."""

    state: int
    """The actor's shard of weights, gradients and Adam's two moments."""
    teacher: int
    """The teacher's shard, where it is kept on the GPU."""
    passes: Passes
    optimizer_step: int
    """Bytes that the optimizer's step needs for itself, after the passes."""

    @property
    def peak(self) -> int:
        return self.state + self.teacher + max(self.passes.peak, self.optimizer_step)


def kept_by_layer(model: Model, rows: Rows, itemsize: int) -> int:
    """Return the bytes that a layer keeps for its backward pass: nothing quadratic in the length but a given mask."""
    # Norms (modeling_qwen3.py:59): the input in float32, normalised, and times the weight.
    per_token = 2 * (FLOAT32_BYTES + 2 * itemsize) * model.hidden
    if model.norms_queries:
        per_token += (FLOAT32_BYTES + itemsize) * (model.queries + model.keys)
    # Attention: queries, keys and values, its output, and that transposed. With a mask keys and values are repeated for
    # every query head (transformers/integrations/sdpa_attention.py:58).
    per_token += itemsize * (3 * model.queries + 2 * (model.queries if rows.mask else model.keys))
    # Feed-forward: gate, its activation, the other input, their product.
    per_token += itemsize * 4 * model.feed_forward
    # sdpa converts a mask of bools into numbers, in every layer anew.
    return per_token * rows.tokens + itemsize * rows.mask


def kept_until_backward(model: Model, batch: MicroBatch, *, checkpointing: bool) -> int:
    """Return the bytes that all layers of the student keep; with gradient checkpointing their inputs only."""
    rows = batch.student
    inputs = batch.itemsize * model.hidden * rows.tokens
    return rows.mask + model.layers * (inputs if checkpointing else kept_by_layer(model, rows, batch.itemsize))


def layer_backward(model: Model, batch: MicroBatch, *, trained: int, checkpointing: bool) -> int:
    """Return the bytes of a layer's backward pass.

    They are two gradients of the feed-forward part; those of the layer's `trained` weights, as computed and in float32
    for the sum over ranks; and with checkpointing everything that the layer keeps, recomputed.
    """
    rows, itemsize = batch.student, batch.itemsize
    gradients = 2 * itemsize * model.feed_forward * rows.tokens + (itemsize + FLOAT32_BYTES) * trained
    return gradients + (kept_by_layer(model, rows, itemsize) if checkpointing else 0)


def teacher_forward(model: Model, batch: MicroBatch) -> int:
    """Return the bytes of a layer's forward pass without gradient, and of the masks.

    Its feed-forward part holds three tensors of its inner width, the input and the residual.
    """
    rows, itemsize = batch.teacher, batch.itemsize
    return itemsize * (3 * model.feed_forward + 2 * model.hidden) * rows.tokens + (1 + itemsize) * rows.mask


def gathered(model: Model, itemsize: int, *, keeps_teacher_root: bool) -> int:
    """Return the bytes that FSDP has gathered: the present and the next layer, all embeddings, and the head.

    The teacher's embeddings and head count, too, if they are in its root unit, which is not resharded after a forward
    pass (torch/distributed/fsdp/_fully_shard/_fsdp_state.py:203).
    """
    return itemsize * ((1 + keeps_teacher_root) * model.root_parameters + 2 * model.layer_parameters)
