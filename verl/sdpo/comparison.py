"""Whole next-token distributions of student and teacher, compared in the place of the student's head.

Neither distribution ever exists for all tokens: logits of some tokens of both models are computed, compared, and
recomputed in the backward pass. Shapes: `N` tokens of the student, `M` of them compared, `C` tokens of a chunk, `D`
hidden size, `V` vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import ClassVar

import torch
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map, tree_unflatten

from verl.sdpo.head import (
    FLOAT32_BYTES,
    PRODUCT_TOKENS,
    ChunkLogits,
    Head,
    HeadShape,
    Logits,
    Support,
    TokenStatistics,
    comparison_chunk_tokens,
)
from verl.sdpo.objective import Comparison

Compare = Callable[[TokenStatistics, TokenStatistics], tuple[torch.Tensor, dict[str, torch.Tensor]]]
"""Student and teacher statistics of some tokens -> losses and reports, each token's from its own statistics alone."""


def compares_by_chunks(head: Head | type[Head], support: Support) -> bool:
    """Return whether student and teacher are compared by a `ComparingHead`."""
    return support.is_whole and head.by_chunks


@dataclass(frozen=True)
class ComparingHead:
    """A head of the student that compares its distributions with the teacher's and returns the comparison."""

    # Float32 tensors of (C, V) that are alive at once, as torch.profiler counts them.
    COPIES: ClassVar[int] = 12

    head: Head
    """The student's, which reads whole distributions at N tokens."""
    teacher_head: Head
    """The teacher's, at the M tokens."""
    teacher: Logits
    is_compared: torch.Tensor
    """(N,) bool."""
    compare: Compare

    @classmethod
    def peak_bytes(cls, shape: HeadShape, *, teacher_passes: int) -> int:
        """Return the most bytes at once: the tensors of a chunk, and the teacher's output embeddings (`Projection`)."""
        chunk = comparison_chunk_tokens(shape.device_type)
        embeddings = teacher_passes * shape.weight_bytes + shape.gradient_bytes
        product = shape.narrow_itemsize * (shape.logits(max(chunk, PRODUCT_TOKENS)) - shape.logits(chunk))
        return cls.COPIES * FLOAT32_BYTES * shape.logits(chunk) + product + embeddings

    def __call__(self, hidden_ND: torch.Tensor, output_embedding: torch.nn.Linear) -> Comparison:
        """Return the comparison, with student statistics at all N tokens: sampled token and entropy only."""
        structure: list[TreeSpec] = []
        leaves = _ChunkedComparison.apply(hidden_ND, output_embedding.weight, output_embedding.bias, self, structure)
        return tree_unflatten(leaves, structure[0])

    @property
    def size(self) -> int:
        """Tokens of a chunk."""
        return comparison_chunk_tokens(self.is_compared.device.type)

    def compared_of_chunks(self) -> list[slice]:
        """Return, for each chunk of the N tokens, which of the M compared tokens it holds."""
        counts = torch.stack([chunk.sum() for chunk in self.is_compared.split(self.size)]).tolist()
        return [slice(start, end) for start, end in pairwise([0, *accumulate(counts)])]

    def compare_chunk(self, z_CV: torch.Tensor, chunk: slice, compared: slice) -> Comparison:
        student = self.head.part(chunk).reduce(z_CV)
        teacher_logits = self.teacher_head.at_temperature(self.teacher(compared))
        teacher = self.teacher_head.part(compared).reduce(teacher_logits)
        all_compared = compared.stop - compared.start == len(z_CV)
        losses, reports = self.compare(student if all_compared else student.at(self.is_compared[chunk]), teacher)
        return Comparison(student._replace(all_log_probs=None), teacher._replace(all_log_probs=None), losses, reports)


class _ChunkedComparison(torch.autograd.Function):
    """The tensors of a `Comparison`, flattened.

    An autograd function takes and returns flat tensors only, while a comparison nests tuples and a dict whose keys the
    objective chooses. `structure` is an empty list that the forward pass fills with the tree to rebuild it from.
    """

    @staticmethod
    def forward(ctx, hidden_ND, weight_VD, bias_V, comparing: ComparingHead, structure: list):
        ctx.compared = comparing.compared_of_chunks()
        logits = ChunkLogits(hidden_ND, weight_VD, bias_V, comparing.head.temperature, size=comparing.size)
        parts = [
            comparing.compare_chunk(z_CV, chunk, compared)
            for (chunk, z_CV), compared in zip(logits, ctx.compared, strict=True)
        ]
        whole = tree_map(lambda *chunks: None if chunks[0] is None else torch.cat(chunks), *parts)
        leaves, ctx.structure = tree_flatten(whole)
        structure.append(ctx.structure)
        ctx.dtype = logits.dtype
        # The backward pass needs no tokens for people to read.
        ctx.heads = [replace(head, num_top=0) for head in (comparing.head, comparing.teacher_head)]
        ctx.rest = comparing.is_compared, comparing.compare
        # The teacher's tensors go through `save_for_backward`, which frees them after the backward pass, although verl
        # keeps the loss until the next micro-batch; what of the teacher is no tensor stays on `ctx`.
        teacher, ctx.teacher_structure = tree_flatten(comparing.teacher)
        ctx.teacher_constants = [None if isinstance(leaf, torch.Tensor) else leaf for leaf in teacher]
        tensors = (leaf if isinstance(leaf, torch.Tensor) else None for leaf in teacher)
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, *tensors)
        # By identity: `leaves` are the very tensors of `whole`, and tensors compare elementwise.
        differentiable = {id(leaf) for leaf in _differentiable(whole, comparing.head)}
        ctx.mark_non_differentiable(*(leaf for leaf in leaves if leaf is not None and id(leaf) not in differentiable))
        return tuple(leaves)

    @staticmethod
    def backward(ctx, *grads):
        projection, tensors = ctx.saved_tensors[:3], ctx.saved_tensors[3:]
        leaves = [
            constant if tensor is None else tensor
            for tensor, constant in zip(tensors, ctx.teacher_constants, strict=True)
        ]
        head, teacher_head = ctx.heads
        comparing = ComparingHead(head, teacher_head, tree_unflatten(leaves, ctx.teacher_structure), *ctx.rest)
        given = tree_unflatten(grads, ctx.structure)
        logits = ChunkLogits(*projection, head.temperature, ctx.dtype, comparing.size)
        compared = iter(ctx.compared)

        def gradient(chunk: slice, z_CV: torch.Tensor) -> torch.Tensor:
            z_CV, tokens = z_CV.detach().requires_grad_(), next(compared)
            with torch.enable_grad():
                outputs = _differentiable(comparing.compare_chunk(z_CV, chunk, tokens), head)
            grad_losses, *grad_student = _differentiable(given, head)
            grad_outputs = [grad_losses[tokens], *(values[chunk] for values in grad_student)]
            (grad_CV,) = torch.autograd.grad(outputs, z_CV, grad_outputs)
            return grad_CV

        return *logits.gradients(gradient, of_weight=ctx.needs_input_grad[1]), None, None


def _differentiable(comparison: Comparison, head: Head) -> list[torch.Tensor]:
    """Return the tensors of a comparison, or of its gradients, through which the loss reaches the student."""
    student = comparison.student
    return [comparison.losses, student.log_probs, *([student.entropy] if head.entropy_has_gradient else [])]
