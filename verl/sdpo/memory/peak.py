"""The most that is alive on one GPU during an update, from the list of its tensors.

Letters of the formulas: `D` hidden size, `Q` and `K` widths of all query and of all key heads, `F` of the feed-forward
part, `V` vocabulary, `S` tokens of a micro-batch, `N` of them in responses, `C` tokens of a chunk of the head, `c`
bytes of a number that is computed with. What a layer keeps for its backward pass was read from transformers' Llama and
Qwen3, and tests/sdpo/memory/test_peak.py compares the sums with torch.profiler's.

Not counted are the objective's tensors of N x K, fragmentation and CUDA's own memory.
"""

from dataclasses import dataclass
from typing import NamedTuple

from verl.sdpo.head import PRODUCT_TOKENS
from verl.sdpo.memory.model_size import Model

FLOAT32 = 4
BFLOAT16 = 2
# Float32 tensors of so many tokens x V that are alive at once, as torch.profiler counts them. Of all tokens, for an
# objective that reads a part of the vocabulary, or all of it:
EAGER_COPIES = 5
WHOLE_VOCABULARY_COPIES = 11
# Of a chunk, where distributions are compared, and where two models are mixed.
COMPARED_COPIES = 12
MIXED_COPIES = 3


class Rows(NamedTuple):
    """The token rows of a micro-batch as one model reads them."""

    tokens: int
    """`S`, with prompts and padding."""
    mask: int = 0
    """Elements of the attention mask; 0 where there is none, as with flash attention."""


@dataclass(frozen=True)
class MicroBatch:
    student: Rows
    teacher: Rows
    responses: int
    """`N`."""
    itemsize: int
    """`c`."""


class Moment(NamedTuple):
    """A moment of an update, and the bytes that are alive only then."""

    name: str
    bytes: int


@dataclass(frozen=True)
class Passes:
    """Bytes on one GPU during the forward and backward passes of a micro-batch, besides models and optimizer."""

    gathered: int
    """Weights that FSDP gathers."""
    activations: int
    """What the student's layers keep from its forward pass to its backward pass."""
    moments: tuple[Moment, ...]
    """One comes after the other."""

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
    """Weights, gradients and Adam's two moments: the actor's shard."""
    teacher: int
    """The teacher's shard, where it is kept on the GPU."""
    passes: Passes
    optimizer_step: int
    """What the optimizer's step needs for itself, after the passes."""

    @property
    def peak(self) -> int:
        return self.state + self.teacher + max(self.passes.peak, self.optimizer_step)


def kept_by_layer(model: Model, rows: Rows, itemsize: int) -> int:
    """What a layer keeps for its backward pass; no S x S tensor but a mask that was given."""
    # Norms (modeling_qwen3.py:59): the input in float32, normalised, and times the weight.
    of_token = 2 * (FLOAT32 + 2 * itemsize) * model.hidden
    if model.norms_queries:
        of_token += (FLOAT32 + itemsize) * (model.queries + model.keys)
    # Attention: queries, keys and values, its output, and that transposed. With a mask keys and values are repeated for
    # every query head (transformers/integrations/sdpa_attention.py:58).
    of_token += itemsize * (3 * model.queries + 2 * (model.queries if rows.mask else model.keys))
    # Feed-forward: gate, its activation, the other input, their product.
    of_token += itemsize * 4 * model.feed_forward
    # sdpa makes numbers of a mask of bools, in every layer anew.
    return of_token * rows.tokens + itemsize * rows.mask


def kept_until_backward(model: Model, batch: MicroBatch, *, checkpointing: bool) -> int:
    """What all layers of the student keep; with gradient checkpointing their inputs only."""
    rows = batch.student
    inputs = batch.itemsize * model.hidden * rows.tokens
    return rows.mask + model.layers * (inputs if checkpointing else kept_by_layer(model, rows, batch.itemsize))


def layer_backward(model: Model, batch: MicroBatch, *, trained: int, checkpointing: bool) -> int:
    """Two gradients of the feed-forward part; those of the layer's `trained` weights, as computed and in float32 for
    the sum over ranks; with checkpointing what the layer keeps, computed again."""
    rows, itemsize = batch.student, batch.itemsize
    gradients = 2 * itemsize * model.feed_forward * rows.tokens + (itemsize + FLOAT32) * trained
    return gradients + (kept_by_layer(model, rows, itemsize) if checkpointing else 0)


def teacher_forward(model: Model, batch: MicroBatch) -> int:
    """In its feed-forward part, without gradient: three tensors of width F, input and residual; and the masks."""
    rows, itemsize = batch.teacher, batch.itemsize
    return itemsize * (3 * model.feed_forward + 2 * model.hidden) * rows.tokens + (1 + itemsize) * rows.mask


def chunked_head(model: Model, batch: MicroBatch, *, chunk_tokens: int, is_trained: bool) -> int:
    """`ChunkedHead`'s buffers: a chunk of logits in float32, besides in its forward pass another, in its backward pass
    the gradient of its weight; and in a narrower type the same logits, in the backward pass those of a product."""
    logits = min(batch.responses, chunk_tokens) * model.vocabulary
    of_product = min(batch.responses, max(chunk_tokens, PRODUCT_TOKENS)) * model.vocabulary
    copy = _narrow(batch)
    forward = FLOAT32 * logits + copy * logits
    backward = copy * of_product + is_trained * _gradient_of_head(model, batch)
    return FLOAT32 * logits + max(forward, backward)


def compared_distributions(model: Model, batch: MicroBatch, *, chunk_tokens: int, kept: int, is_trained: bool) -> int:
    """`ComparingHead`'s tensors of a chunk, and the weights of `kept` heads, which FSDP frees (`Projection`)."""
    logits = min(batch.responses, chunk_tokens) * model.vocabulary
    of_heads = kept * _head(model, batch) + is_trained * _gradient_of_head(model, batch)
    beside = (min(batch.responses, max(chunk_tokens, PRODUCT_TOKENS)) * model.vocabulary - logits) * _narrow(batch)
    return COMPARED_COPIES * FLOAT32 * logits + beside + of_heads


def mixed_logits(model: Model, batch: MicroBatch, *, chunk_tokens: int, kept: int) -> int:
    """The same of two models whose logits are mixed, without gradient."""
    logits = min(batch.responses, chunk_tokens) * model.vocabulary
    return MIXED_COPIES * FLOAT32 * logits + kept * _head(model, batch)


def _narrow(batch: MicroBatch) -> int:
    """Bytes of a number of the copy in a narrower type than float32, if there is one."""
    return batch.itemsize if batch.itemsize < FLOAT32 else 0


def _head(model: Model, batch: MicroBatch) -> int:
    return batch.itemsize * model.vocabulary * model.hidden


def _gradient_of_head(model: Model, batch: MicroBatch) -> int:
    """In float32, and as computed where that is narrower."""
    return (FLOAT32 + _narrow(batch)) * model.vocabulary * model.hidden


def all_logits(model: Model, batch: MicroBatch, copies: int) -> int:
    return copies * FLOAT32 * batch.responses * model.vocabulary


def gathered(model: Model, itemsize: int, *, keeps_teacher_root: bool) -> int:
    """Of the layers the present one and the next, of embeddings and head all; the teacher's, too, where they are in its
    root unit, which is not resharded after a forward pass (torch/distributed/fsdp/_fully_shard/_fsdp_state.py:203)."""
    return itemsize * ((1 + keeps_teacher_root) * model.root_parameters + 2 * model.layer_parameters)
