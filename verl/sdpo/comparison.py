"""Whole next-token distributions of student and teacher, compared where the student's head stands.

Neither is ever there for all tokens: logits of some tokens of both models are made, compared, and made once more in the
backward pass. Shapes: `N` tokens of the student, `M` of them compared, `C` tokens of a chunk, `D` hidden size, `V`
vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import torch
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map, tree_unflatten

from verl.sdpo.head import ChunkLogits, EagerHead, Logits, TokenStatistics, compared_tokens
from verl.sdpo.objective import Comparison

Compare = Callable[[TokenStatistics, TokenStatistics], tuple[torch.Tensor, dict[str, torch.Tensor]]]
"""Student and teacher at some tokens -> losses and reports of these, each token's from its own numbers alone."""


@dataclass(frozen=True)
class ComparingHead:
    """Called as the head of the student."""

    head: EagerHead
    """The student's, which reads whole distributions at N tokens."""
    teacher_head: EagerHead
    """The teacher's, at the M tokens."""
    teacher: Logits
    is_compared: torch.Tensor
    """(N,) bool."""
    compare: Compare

    def __call__(self, hidden_ND: torch.Tensor, output_embedding: torch.nn.Linear) -> Comparison:
        """Of the student no more than is asked for of a sampled token, at all N tokens."""
        form: list[TreeSpec] = []
        leaves = _ChunkedComparison.apply(hidden_ND, output_embedding.weight, output_embedding.bias, self, form)
        return tree_unflatten(leaves, form[0])

    @property
    def size(self) -> int:
        """Tokens of a chunk."""
        return compared_tokens(self.is_compared.device)

    def compared_of_chunks(self) -> list[slice]:
        """Of each chunk, which of the M tokens are in it."""
        counts = torch.stack([chunk.sum() for chunk in self.is_compared.split(self.size)]).tolist()
        return [slice(start, end) for start, end in pairwise([0, *accumulate(counts)])]

    def of(self, z_CV: torch.Tensor, chunk: slice, compared: slice) -> Comparison:
        student = self.head.of(chunk).reduce(z_CV)
        teacher_logits = self.teacher_head.at_temperature(self.teacher(compared))
        teacher = self.teacher_head.of(compared).reduce(teacher_logits)
        every = compared.stop - compared.start == len(z_CV)
        losses, reports = self.compare(student if every else student.at(self.is_compared[chunk]), teacher)
        return Comparison(student._replace(all_log_probs=None), teacher._replace(all_log_probs=None), losses, reports)


class _ChunkedComparison(torch.autograd.Function):
    """A `Comparison`'s tensors, flat; `form` is told how they belong together."""

    @staticmethod
    def forward(ctx, hidden_ND, weight_VD, bias_V, comparing: ComparingHead, form: list):
        ctx.compared = comparing.compared_of_chunks()
        logits = ChunkLogits(hidden_ND, weight_VD, bias_V, comparing.head.temperature, size=comparing.size)
        parts = [
            comparing.of(z_CV, chunk, compared) for (chunk, z_CV), compared in zip(logits, ctx.compared, strict=True)
        ]
        whole = tree_map(lambda *chunks: None if chunks[0] is None else torch.cat(chunks), *parts)
        leaves, ctx.form = tree_flatten(whole)
        form.append(ctx.form)
        ctx.dtype = logits.dtype
        # The backward pass reads no `best`. The teacher's tensors are saved as the student's are, to be freed after it.
        ctx.heads = [replace(head, best=0) for head in (comparing.head, comparing.teacher_head)]
        ctx.rest = comparing.is_compared, comparing.compare
        teacher, ctx.form_of_teacher = tree_flatten(comparing.teacher)
        ctx.of_teacher = [None if isinstance(leaf, torch.Tensor) else leaf for leaf in teacher]
        tensors = (leaf if isinstance(leaf, torch.Tensor) else None for leaf in teacher)
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, *tensors)
        with_gradient = {id(leaf) for leaf in _with_gradient(whole, comparing.head)}
        ctx.mark_non_differentiable(*(leaf for leaf in leaves if leaf is not None and id(leaf) not in with_gradient))
        return tuple(leaves)

    @staticmethod
    def backward(ctx, *grads):
        projection, tensors = ctx.saved_tensors[:3], ctx.saved_tensors[3:]
        leaves = [other if tensor is None else tensor for tensor, other in zip(tensors, ctx.of_teacher, strict=True)]
        head, teacher_head = ctx.heads
        comparing = ComparingHead(head, teacher_head, tree_unflatten(leaves, ctx.form_of_teacher), *ctx.rest)
        given = tree_unflatten(grads, ctx.form)
        logits = ChunkLogits(*projection, head.temperature, ctx.dtype, comparing.size)
        compared = iter(ctx.compared)

        def gradient(chunk: slice, z_CV: torch.Tensor) -> torch.Tensor:
            z_CV, tokens = z_CV.detach().requires_grad_(), next(compared)
            with torch.enable_grad():
                made = _with_gradient(comparing.of(z_CV, chunk, tokens), head)
            of_losses, *of_student = _with_gradient(given, head)
            (grad_CV,) = torch.autograd.grad(made, z_CV, [of_losses[tokens], *(values[chunk] for values in of_student)])
            return grad_CV

        return *logits.gradients(gradient, of_weight=ctx.needs_input_grad[1]), None, None


def _with_gradient(comparison: Comparison, head: EagerHead) -> list[torch.Tensor]:
    student = comparison.student
    return [comparison.losses, student.log_probs, *([student.entropy] if head.entropy_has_gradient else [])]
