"""Statistics of a model's next-token distributions, computed in the place of its language-model head.

Shapes: `N` selected tokens, `D` hidden size, `V` vocabulary, `K` tokens of the support, `C` tokens of a chunk.
Log-probabilities are natural logarithms, normalised over the *whole* vocabulary at the rollout temperature.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, Protocol

import torch
import torch.nn.functional as F

# Rows of logits whose entropy is computed at once, so that no second (N, V) tensor is ever alive.
ENTROPY_CHUNK = 256
# Tokens whose logits are alive at once. A CPU is bound by memory bandwidth; an accelerator needs larger products.
CHUNK_TOKENS = 128
CHUNK_TOKENS_ON_ACCELERATOR = 1024
# The same where whole distributions are compared, which takes ten times the memory of a chunk's logits.
COMPARED_TOKENS_ON_ACCELERATOR = 256
# Products in a narrow dtype that are accumulated in a wide one, where the accumulation takes as long as the product:
# tokens of a product, and rows of the output embedding whose gradient is accumulated at once.
PRODUCT_TOKENS = 512
VOCABULARY_PART = 16384

FLOAT32_BYTES = 4
SUPPORTS = ("student", "teacher", "union")
# An index of a support that stands for no token, and its log-probability: finite, so that differences of two of them
# are zero and not NaN, and so low that its exponential is exactly zero.
NO_TOKEN = -1
NO_LOG_PROB = -1e4


@dataclass(frozen=True)
class Support:
    """The tokens of the vocabulary at which an objective compares two models, besides the sampled token."""

    k: int | None
    """Number of a model's most likely tokens; None: the whole vocabulary."""
    of: str = "student"
    """The model whose top-k it is: student, teacher, or the union of both."""

    @property
    def is_whole(self) -> bool:
        return self.k is None

    def count(self, vocabulary: int) -> int:
        """Return how many tokens one model's part of the support has in a vocabulary of this size."""
        return vocabulary if self.k is None else min(self.k, vocabulary)


SAMPLED_TOKEN = Support(0)


class TokenStatistics(NamedTuple):
    """Statistics of one model at N positions.

    A tuple, so that FSDP's hooks find its tensors when a model returns it in the place of logits.
    """

    log_probs: torch.Tensor
    """(N,), of the sampled token."""
    entropy: torch.Tensor
    """(N,), nats."""
    all_log_probs: torch.Tensor | None = None
    """(N, V)."""
    support_log_probs: torch.Tensor | None = None
    """(N, K), `NO_LOG_PROB` where the support has no token."""
    support_indices: torch.Tensor | None = None
    """(N, K), `NO_TOKEN` where the support has no token."""
    top_log_probs: torch.Tensor | None = None
    """(N, n), without gradient, of the model's own most likely tokens, for people to read."""
    top_indices: torch.Tensor | None = None
    """(N, n)."""

    def at(self, chosen: torch.Tensor) -> "TokenStatistics":
        """Return the statistics of the positions where `chosen`, (N,) bool, is true."""
        chosen = chosen.nonzero().squeeze(-1)
        return TokenStatistics(*(None if values is None else values[chosen] for values in self))


class Logits(Protocol):
    """Logits at N tokens, computed on demand."""

    def __call__(self, tokens: slice) -> torch.Tensor:
        """Return (C, V) logits in at least float32, without gradient, at temperature one."""


class Projection(NamedTuple):
    """The factors of a model's logits at N tokens, kept beyond its forward pass."""

    hidden_ND: torch.Tensor
    weight_VD: torch.Tensor
    bias_V: torch.Tensor | None

    @classmethod
    def taken(cls, hidden_ND: torch.Tensor, output_embedding: torch.nn.Linear) -> "Projection":
        """Copy the factors where the head stands; FSDP frees the weight after the forward pass."""
        weight_VD, bias_V = output_embedding.weight, output_embedding.bias
        dtype = _compute_dtype(hidden_ND)
        bias_V = None if bias_V is None else bias_V.detach().to(dtype, copy=True)
        return cls(hidden_ND.detach().to(dtype), weight_VD.detach().to(dtype, copy=True), bias_V)

    def __call__(self, tokens: slice) -> torch.Tensor:
        logits = F.linear(self.hidden_ND[tokens], self.weight_VD, self.bias_V)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


class HeadShape(NamedTuple):
    """Sizes of one call of a head, from which its memory is estimated."""

    tokens: int
    """`N`."""
    vocabulary: int
    hidden: int
    itemsize: int
    """Bytes of a number that is computed with."""
    is_trained: bool
    """True if the output embedding gets a gradient."""
    device_type: str
    """Type of the device as torch names it: cpu, cuda, ..."""

    @property
    def narrow_itemsize(self) -> int:
        """Bytes of a number in a dtype narrower than float32; 0 where everything is computed in float32."""
        return self.itemsize if self.itemsize < FLOAT32_BYTES else 0

    @property
    def weight_bytes(self) -> int:
        """Bytes of the output embedding, gathered."""
        return self.itemsize * self.vocabulary * self.hidden

    @property
    def gradient_bytes(self) -> int:
        """Bytes of the output embedding's gradient, in float32 and, where that is narrower, as computed."""
        return self.is_trained * (FLOAT32_BYTES + self.narrow_itemsize) * self.vocabulary * self.hidden

    def logits(self, tokens: int) -> int:
        """Return the numbers in the logits of at most `tokens` tokens."""
        return min(self.tokens, tokens) * self.vocabulary


@dataclass(frozen=True)
class Head:
    """A language-model head bound to N tokens: hidden states in, their `TokenStatistics` out.

    An instance is called in the place of a model's head, with hidden states (N, D) and the output embedding.
    """

    by_chunks: ClassVar[bool] = False
    """True if logits of a few tokens only are alive at once, wherever the support allows it."""

    token_ids: torch.Tensor
    """(N,), the sampled tokens."""
    support: Support
    temperature: float = 1.0
    support_indices: torch.Tensor | None = None
    """(N, K), the tokens to read, `NO_TOKEN` for none. None: these logits' own top-k."""
    adds_own_topk: bool = False
    """The top-k of these very logits is read besides `support_indices`, as a union of both."""
    entropy_has_gradient: bool = False
    num_top: int = 0
    """Number of these logits' own most likely tokens that are reported as well, which no objective reads."""

    @classmethod
    def peak_bytes(cls, shape: HeadShape, support: Support) -> int:
        """Return the most bytes that a forward and a backward pass of the student's head hold at once."""
        raise NotImplementedError

    def __call__(self, hidden_ND: torch.Tensor, output_embedding: torch.nn.Linear) -> TokenStatistics:
        return self.reduce(self.at_temperature(F.linear(hidden_ND, output_embedding.weight, output_embedding.bias)))

    def at_temperature(self, logits: torch.Tensor) -> torch.Tensor:
        # Dividing copies them.
        return logits if self.temperature == 1.0 else logits / self.temperature

    def read(self, logits: Logits) -> TokenStatistics:
        """Return the statistics of logits that are computed on demand."""
        parts = [self.part(tokens).reduce(self.at_temperature(logits(tokens))) for tokens in self.chunks()]
        return TokenStatistics(
            *(None if column[0] is None else torch.cat(column) for column in zip(*parts, strict=True))
        )

    def chunks(self) -> Iterator[slice]:
        """Iterate over the tokens, as many at a time as this head computes at once."""
        yield slice(0, len(self.token_ids))

    def part(self, tokens: slice) -> "Head":
        """Return this head bound to some of its tokens."""
        indices = None if self.support_indices is None else self.support_indices[tokens]
        return replace(self, token_ids=self.token_ids[tokens], support_indices=indices)

    def indices_in(self, logits_NV: torch.Tensor) -> torch.Tensor:
        """Return the (N, K) indices of the support; a token of both models' top-k counts once in their union."""
        given_NK = self.support_indices
        if given_NK is not None and not self.adds_own_topk:
            return given_NK
        own_NK = logits_NV.detach().topk(self.support.count(logits_NV.shape[-1]), dim=-1).indices
        if given_NK is None:
            return own_NK
        is_given_NK = (own_NK.unsqueeze(-1) == given_NK.unsqueeze(-2)).any(-1)
        return torch.cat([given_NK, own_NK.masked_fill(is_given_NK, NO_TOKEN)], dim=-1)

    def reduce(self, logits_NV: torch.Tensor) -> TokenStatistics:
        """Return the statistics of logits at the temperature; any floating dtype, at least float32 inside."""
        logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
        log_normalizer_N1 = torch.logsumexp(logits_NV, dim=-1, keepdim=True)
        sampled_N = logits_NV.gather(-1, self.token_ids.unsqueeze(-1)).sub(log_normalizer_N1).squeeze(-1)
        if self.entropy_has_gradient:
            entropy_N = _entropy(logits_NV, log_normalizer_N1)
        else:
            entropy_N = _entropy(logits_NV.detach(), log_normalizer_N1.detach())
        top_Nn = top_indices_Nn = None
        if self.num_top:
            top_Nn, top_indices_Nn = logits_NV.detach().topk(self.num_top, dim=-1)
            top_Nn = top_Nn - log_normalizer_N1.detach()
        all_NV = support_NK = indices_NK = None
        if self.support.is_whole:
            all_NV = logits_NV - log_normalizer_N1
        elif self.support.k:
            indices_NK = self.indices_in(logits_NV)
            support_NK = _gather(logits_NV, indices_NK).sub(log_normalizer_N1)
            support_NK = support_NK.masked_fill(indices_NK == NO_TOKEN, NO_LOG_PROB)
        return TokenStatistics(sampled_N, entropy_N, all_NV, support_NK, indices_NK, top_Nn, top_indices_Nn)


def _gather(values_NV: torch.Tensor, indices_NK: torch.Tensor) -> torch.Tensor:
    """Return the (N, K) values at a support; any value of the row where it has no token."""
    return values_NV.gather(-1, indices_NK.clamp(min=0))


def _entropy(logits_NV: torch.Tensor, log_normalizer_N1: torch.Tensor) -> torch.Tensor:
    """Return the entropy in nats, (N,), of softmax(logits)."""
    chunks = zip(logits_NV.split(ENTROPY_CHUNK), log_normalizer_N1.split(ENTROPY_CHUNK), strict=True)
    return torch.cat([z.squeeze(-1) - ((x - z).exp() * x).sum(-1) for x, z in chunks])


class EagerHead(Head):
    """The readable reference: all logits at once, (N, V), and every statistic from them."""

    # Float32 tensors of (N, V) that are alive at once, as torch.profiler counts them.
    COPIES: ClassVar[int] = 5
    COPIES_OF_WHOLE_VOCABULARY: ClassVar[int] = 11

    @classmethod
    def peak_bytes(cls, shape: HeadShape, support: Support) -> int:
        copies = cls.COPIES_OF_WHOLE_VOCABULARY if support.is_whole else cls.COPIES
        return copies * FLOAT32_BYTES * shape.tokens * shape.vocabulary


class ChunkedHead(Head):
    """The same statistics without an (N, V) tensor: logits of some tokens at a time, recomputed in the backward pass.

    Memory beyond the gradients does not depend on N. Whole distributions are (N, V) themselves and are computed as by
    the eager head; `comparison.ComparingHead` compares them without holding them.
    """

    by_chunks = True

    @classmethod
    def peak_bytes(cls, shape: HeadShape, support: Support) -> int:
        """Add up the buffers: a chunk's logits in float32, in the forward pass a second tensor of that size.

        In a narrow dtype there are the same logits once more, and in the backward pass those of a whole product.
        """
        chunk = chunk_tokens(shape.device_type)
        forward = (FLOAT32_BYTES + shape.narrow_itemsize) * shape.logits(chunk)
        backward = shape.narrow_itemsize * shape.logits(max(chunk, PRODUCT_TOKENS)) + shape.gradient_bytes
        return FLOAT32_BYTES * shape.logits(chunk) + max(forward, backward)

    def __call__(self, hidden_ND: torch.Tensor, output_embedding: torch.nn.Linear) -> TokenStatistics:
        if self.support.is_whole:
            return super().__call__(hidden_ND, output_embedding)
        weight_VD, bias_V = output_embedding.weight, output_embedding.bias
        return TokenStatistics(*_ChunkedStatistics.apply(hidden_ND, weight_VD, bias_V, self))

    def chunks(self) -> Iterator[slice]:
        return split_tokens(len(self.token_ids), chunk_tokens(self.token_ids.device.type))


def chunk_tokens(device_type: str) -> int:
    return CHUNK_TOKENS if device_type == "cpu" else CHUNK_TOKENS_ON_ACCELERATOR


def comparison_chunk_tokens(device_type: str) -> int:
    """Return the tokens of a chunk where whole distributions are compared."""
    return min(chunk_tokens(device_type), COMPARED_TOKENS_ON_ACCELERATOR)


def split_tokens(tokens: int, size: int) -> Iterator[slice]:
    """Iterate over chunks of `size` tokens; yields one empty chunk if there are none."""
    for start in range(0, max(tokens, 1), size):
        yield slice(start, start + size)


class _ChunkedStatistics(torch.autograd.Function):
    """`TokenStatistics` of hidden states, with `all_log_probs` None."""

    @staticmethod
    def forward(ctx, hidden_ND, weight_VD, bias_V, head: Head):
        logits = ChunkLogits(hidden_ND, weight_VD, bias_V, head.temperature)
        parts = []
        for chunk, z_CV in logits:
            # One more tensor of that size, and all in place: fresh memory costs as much as the arithmetic.
            largest_C1 = z_CV.amax(-1, keepdim=True)
            z_CV -= largest_C1
            p_CV = torch.exp(z_CV, out=logits.scratch(z_CV))
            log_sum_C1 = p_CV.sum(-1, keepdim=True).log_()
            sampled_C = z_CV.gather(-1, head.token_ids[chunk].unsqueeze(-1)).sub_(log_sum_C1).squeeze(-1)
            support_CK = indices_CK = None
            if head.support.k:
                indices_CK = head.part(chunk).indices_in(z_CV)
                support_CK = _gather(z_CV, indices_CK).sub_(log_sum_C1)
                support_CK.masked_fill_(indices_CK == NO_TOKEN, NO_LOG_PROB)
            top_Cn = top_indices_Cn = None
            if head.num_top:
                top_Cn, top_indices_Cn = z_CV.topk(head.num_top, dim=-1)
                top_Cn -= log_sum_C1
            # -sum of p log p, with p not yet divided by its sum.
            mean_C = p_CV.mul_(z_CV).sum(-1).mul_(log_sum_C1.squeeze(-1).neg().exp_())
            entropy_C = log_sum_C1.squeeze(-1) - mean_C
            normalizer_C1 = largest_C1 + log_sum_C1
            parts.append((normalizer_C1, sampled_C, entropy_C, support_CK, indices_CK, top_Cn, top_indices_Cn))
        columns = (None if column[0] is None else torch.cat(column) for column in zip(*parts, strict=True))
        normalizer, log_probs, entropy, support, indices, top, top_indices = columns
        # The weight as it came, which FSDP frees and gathers again; not the copy in the compute dtype.
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, indices, entropy, normalizer)
        ctx.head, ctx.dtype = head, logits.dtype
        # Indices are integers, which have no gradient anyhow.
        without_gradient = [top, None if head.entropy_has_gradient else entropy]
        ctx.mark_non_differentiable(*(values for values in without_gradient if values is not None))
        return log_probs, entropy, None, support, indices, top, top_indices

    @staticmethod
    def backward(ctx, grad_sampled, grad_entropy, _, grad_support, *__):
        """dL/dz = scatter(g_support) + onehot(g_sampled) - softmax(z) (sum of both) - g_entropy p (log p + H)."""
        *projection, indices, entropy, normalizer_N1 = ctx.saved_tensors
        head = ctx.head
        logits = ChunkLogits(*projection, head.temperature, ctx.dtype)
        if grad_support is not None:
            grad_support = grad_support.masked_fill(indices == NO_TOKEN, 0)

        def gradient(chunk: slice, z_CV: torch.Tensor) -> torch.Tensor:
            z_CV -= normalizer_N1[chunk]
            total = grad_sampled[chunk] if grad_support is None else grad_sampled[chunk] + grad_support[chunk].sum(-1)
            factor_C1 = total.neg().unsqueeze(-1)
            if head.entropy_has_gradient:
                p_CV = torch.exp(z_CV, out=logits.scratch(z_CV))
                z_CV += entropy[chunk].unsqueeze(-1)
                z_CV *= -grad_entropy[chunk].unsqueeze(-1)
                z_CV += factor_C1
                z_CV *= p_CV
            else:
                z_CV.exp_().mul_(factor_C1)
            z_CV.scatter_add_(-1, head.token_ids[chunk].unsqueeze(-1), grad_sampled[chunk].unsqueeze(-1))
            if grad_support is not None:
                z_CV.scatter_add_(-1, indices[chunk].clamp(min=0), grad_support[chunk])
            return z_CV

        return *logits.gradients(gradient, of_weight=ctx.needs_input_grad[1]), None


Gradient = Callable[[slice, torch.Tensor], torch.Tensor]
"""(tokens, their logits, which may be overwritten) -> gradient of the loss with respect to the logits."""


class ChunkLogits:
    """Iterable of (slice, logits of these tokens), divided by the temperature, in at least float32.

    All chunks share one buffer: each overwrites the one before, and the caller may overwrite it too. Yields one empty
    chunk if there are no tokens.
    """

    def __init__(
        self,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        bias_V: torch.Tensor | None,
        temperature: float,
        dtype: torch.dtype | None = None,
        size: int | None = None,
    ):
        self.dtype = dtype or _compute_dtype(hidden_ND)
        self.wide = torch.promote_types(self.dtype, torch.float32)
        self.weight = weight_VD.to(self.dtype)
        self.bias = None if bias_V is None else bias_V.to(self.dtype)
        self.hidden, self.temperature = hidden_ND, temperature
        self.projection = Projection(hidden_ND, weight_VD, bias_V)
        self.size = size or chunk_tokens(hidden_ND.device.type)
        self._buffers: dict[str, torch.Tensor] = {}

    def __iter__(self) -> Iterator[tuple[slice, torch.Tensor]]:
        return self._iterate(self.size)

    def _iterate(self, kept_tokens: int) -> Iterator[tuple[slice, torch.Tensor]]:
        """Iterate over the chunks, where the compute-dtype buffer holds the chunks of `kept_tokens` side by side."""
        rows = min(kept_tokens, len(self.hidden))
        for chunk in split_tokens(len(self.hidden), self.size):
            hidden = self.hidden[chunk].to(self.dtype)
            start = chunk.start % kept_tokens
            logits = self._buffer("logits", rows, self.dtype)[start : start + len(hidden)]
            torch.mm(hidden, self.weight.T, out=logits)
            if self.bias is not None:
                logits += self.bias
            if self.dtype != self.wide:
                logits = self._buffer("wide", len(hidden), self.wide).copy_(logits)
            if self.temperature != 1.0:
                logits /= self.temperature
            yield chunk, logits

    def scratch(self, like: torch.Tensor) -> torch.Tensor:
        """Return another tensor of that shape, uninitialised."""
        return self._buffer("scratch", len(like), like.dtype)

    def gradients(
        self, of_logits: Gradient, *, of_weight: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Return the gradients of hidden states, weight and bias, in their own dtypes; summed in the wide one."""
        hidden_ND, weight_VD, bias_V = self.projection
        grad_hidden = torch.empty_like(hidden_ND)
        grad_weight = torch.empty_like(weight_VD, dtype=self.wide) if of_weight else None
        grad_bias = torch.zeros_like(bias_V, dtype=self.wide) if bias_V is not None else None
        is_narrow = self.dtype != self.wide
        # In a narrow dtype the gradients of several chunks, each written over its logits, are multiplied at once.
        product = max(PRODUCT_TOKENS // self.size, 1) * self.size if is_narrow else self.size
        start = 0
        for chunk, z_CV in self._iterate(product):
            z_CV = of_logits(chunk, z_CV)
            if self.temperature != 1.0:
                z_CV /= self.temperature
            if grad_bias is not None:
                grad_bias += z_CV.sum(0)
            end = chunk.start + len(z_CV)
            grads = z_CV
            if is_narrow:
                grads = self._buffer("logits", end - start, self.dtype)
                grads[chunk.start - start :] = z_CV
            if end - start == product or end == len(hidden_ND):
                tokens = slice(start, end)
                grad_hidden[tokens] = grads @ self.weight
                if grad_weight is not None:
                    _accumulate(grad_weight, grads, hidden_ND[tokens].to(self.dtype), is_first=start == 0)
                start = end
        grad_weight = None if grad_weight is None else grad_weight.to(weight_VD.dtype)
        return grad_hidden, grad_weight, None if bias_V is None or grad_bias is None else grad_bias.to(bias_V.dtype)

    def _buffer(self, name: str, rows: int, dtype: torch.dtype) -> torch.Tensor:
        """Return `rows` rows of a buffer; the first call, which is the largest, allocates it."""
        if name not in self._buffers:
            self._buffers[name] = self.hidden.new_empty(rows, len(self.weight), dtype=dtype)
        return self._buffers[name][:rows]


def _compute_dtype(hidden: torch.Tensor) -> torch.dtype:
    """Return the dtype of matrix products; autocast does not reach into a custom autograd function."""
    device = hidden.device.type
    if torch.is_autocast_enabled(device) and hidden.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return hidden.dtype


def _accumulate(
    grad_weight_VD: torch.Tensor, grad_logits_CV: torch.Tensor, hidden_CD: torch.Tensor, *, is_first: bool
) -> None:
    """Add grad_logits^T hidden to grad_weight in the wide dtype; the first product overwrites what is there."""
    if grad_weight_VD.dtype == hidden_CD.dtype:
        grad_weight_VD.addmm_(grad_logits_CV.T, hidden_CD, beta=0 if is_first else 1)
        return
    # The product comes in the narrow dtype: by parts, so that there is no second tensor of the weight's size.
    parts = zip(grad_weight_VD.split(VOCABULARY_PART), grad_logits_CV.split(VOCABULARY_PART, dim=1), strict=True)
    for grad_part, logits_part in parts:
        product = logits_part.T @ hidden_CD
        if is_first:
            grad_part.copy_(product)
        else:
            grad_part += product


HEADS: Mapping[str, type[Head]] = {"chunked": ChunkedHead, "eager": EagerHead}
