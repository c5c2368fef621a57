"""What is needed of a model's next-token distributions, computed where its language-model head stands.

Shapes: `N` tokens of a flat batch, `D` hidden size, `V` vocabulary, `K` compared tokens. Log-probabilities are natural
logarithms of distributions over the *whole* vocabulary at the rollout temperature.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, Protocol

import torch
import torch.nn.functional as F

# Rows of logits whose entropy is computed at once, so that no second (N, V) tensor is ever alive.
ENTROPY_CHUNK = 256
# Tokens whose logits are alive at once: few where memory moves slowly, more where a matrix product wants to be filled.
CHUNK_TOKENS = 128
CHUNK_TOKENS_ON_ACCELERATOR = 1024
# Where whole distributions are compared, which takes ten times the memory of a chunk's logits.
COMPARED_TOKENS_ON_ACCELERATOR = 256
# Where products come in a narrow dtype and are added in a wide one, which takes as long as they do: tokens of a
# product, and rows of the output embedding whose gradient is added at once.
PRODUCT_TOKENS = 512
VOCABULARY_PART = 16384


@dataclass(frozen=True)
class Outcomes:
    """Which log-probabilities of a position an objective compares, besides the sampled token's."""

    topk: int = 0
    """This many of the student's most likely tokens."""
    all: bool = False
    """The whole vocabulary."""

    def count(self, vocabulary: int) -> int:
        """How many they are in a vocabulary of this size."""
        return vocabulary if self.all else min(self.topk, vocabulary)


SAMPLED_TOKEN = Outcomes()


class TokenStatistics(NamedTuple):
    """What an objective reads of one model at N positions.

    A tuple, so that FSDP's hooks find its tensors when a model returns it in the place of logits.
    """

    log_probs: torch.Tensor
    """(N,), of the token that was sampled."""
    entropy: torch.Tensor
    """(N,), nats."""
    all_log_probs: torch.Tensor | None = None
    """(N, V)."""
    topk_log_probs: torch.Tensor | None = None
    """(N, K)."""
    topk_indices: torch.Tensor | None = None
    """(N, K)."""
    best_log_probs: torch.Tensor | None = None
    """(N, n), without gradient, of the model's own most likely tokens, for people to read."""
    best_indices: torch.Tensor | None = None
    """(N, n)."""

    def at(self, chosen: torch.Tensor) -> "TokenStatistics":
        """Those of the positions where `chosen`, (N,) bool, is true."""
        chosen = chosen.nonzero().squeeze(-1)
        return TokenStatistics(*(None if values is None else values[chosen] for values in self))


class Logits(Protocol):
    """Logits at N tokens, made when they are asked for."""

    def __call__(self, tokens: slice) -> torch.Tensor:
        """(C, V), in at least float32, without gradient; of a model at temperature one."""


class Projection(NamedTuple):
    """What a model's logits at N tokens are made of, kept beyond its forward pass."""

    hidden_ND: torch.Tensor
    weight_VD: torch.Tensor
    bias_V: torch.Tensor | None

    @classmethod
    def taken(cls, hidden_ND: torch.Tensor, output_embedding: torch.nn.Linear) -> "Projection":
        """Called as the head of a model. The weight is copied, as its memory is FSDP's."""
        weight_VD, bias_V = output_embedding.weight, output_embedding.bias
        dtype = _compute_dtype(hidden_ND)
        bias_V = None if bias_V is None else bias_V.detach().to(dtype, copy=True)
        return cls(hidden_ND.detach().to(dtype), weight_VD.detach().to(dtype, copy=True), bias_V)

    def __call__(self, tokens: slice) -> torch.Tensor:
        logits = F.linear(self.hidden_ND[tokens], self.weight_VD, self.bias_V)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


@dataclass(frozen=True)
class EagerHead:
    """The readable one: all logits at once, (N, V), and every statistic from them.

    Called as the head of a model, with its hidden states (N, D) and its output embedding.
    """

    by_chunks: ClassVar[bool] = False
    """Whether logits of some tokens only are alive at once, where the outcomes allow it."""

    token_ids: torch.Tensor
    """(N,), the sampled tokens."""
    outcomes: Outcomes
    temperature: float = 1.0
    topk_indices: torch.Tensor | None = None
    """(N, K), where to read a teacher: the student's top-k. None: the top-k of these logits."""
    entropy_has_gradient: bool = False
    best: int = 0
    """So many of these logits' own most likely tokens are reported as well, which no objective reads."""

    def __call__(self, hidden_ND: torch.Tensor, output_embedding: torch.nn.Linear) -> TokenStatistics:
        return self.reduce(self.at_temperature(F.linear(hidden_ND, output_embedding.weight, output_embedding.bias)))

    def at_temperature(self, logits: torch.Tensor) -> torch.Tensor:
        # Dividing copies them.
        return logits if self.temperature == 1.0 else logits / self.temperature

    def read(self, logits: Logits) -> TokenStatistics:
        """The statistics of logits that no model has at hand."""
        parts = [self.of(tokens).reduce(self.at_temperature(logits(tokens))) for tokens in self.chunks()]
        return TokenStatistics(
            *(None if column[0] is None else torch.cat(column) for column in zip(*parts, strict=True))
        )

    def chunks(self) -> Iterator[slice]:
        """The tokens, as many at a time as this head takes."""
        yield slice(0, len(self.token_ids))

    def of(self, tokens: slice) -> "EagerHead":
        """The head of some of the tokens."""
        indices = None if self.topk_indices is None else self.topk_indices[tokens]
        return replace(self, token_ids=self.token_ids[tokens], topk_indices=indices)

    def reduce(self, logits_NV: torch.Tensor) -> TokenStatistics:
        """The statistics of logits that are divided by the temperature; any floating dtype, at least float32 inside."""
        logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
        log_normalizer_N1 = torch.logsumexp(logits_NV, dim=-1, keepdim=True)
        sampled_N = logits_NV.gather(-1, self.token_ids.unsqueeze(-1)).sub(log_normalizer_N1).squeeze(-1)
        if self.entropy_has_gradient:
            entropy_N = _entropy(logits_NV, log_normalizer_N1)
        else:
            entropy_N = _entropy(logits_NV.detach(), log_normalizer_N1.detach())
        best_Nn = best_indices_Nn = None
        if self.best:
            best_Nn, best_indices_Nn = logits_NV.detach().topk(self.best, dim=-1)
            best_Nn = best_Nn - log_normalizer_N1.detach()
        all_NV = topk_NK = indices_NK = None
        if self.outcomes.all:
            all_NV = logits_NV - log_normalizer_N1
        elif self.outcomes.topk:
            indices_NK = self.topk_indices
            if indices_NK is None:
                indices_NK = logits_NV.detach().topk(self.outcomes.count(logits_NV.shape[-1]), dim=-1).indices
            topk_NK = logits_NV.gather(-1, indices_NK) - log_normalizer_N1
        return TokenStatistics(sampled_N, entropy_N, all_NV, topk_NK, indices_NK, best_Nn, best_indices_Nn)


def _entropy(logits_NV: torch.Tensor, log_normalizer_N1: torch.Tensor) -> torch.Tensor:
    """Entropy in nats, (N,), of softmax(logits)."""
    chunks = zip(logits_NV.split(ENTROPY_CHUNK), log_normalizer_N1.split(ENTROPY_CHUNK), strict=True)
    return torch.cat([z.squeeze(-1) - ((x - z).exp() * x).sum(-1) for x, z in chunks])


class ChunkedHead(EagerHead):
    """The same statistics without an (N, V) tensor: logits of some tokens at a time, once more in the backward pass.

    Memory beyond the gradients does not depend on N. Whole distributions are (N, V) themselves, and what the eager head
    makes; `comparison.ComparingHead` compares them without.
    """

    by_chunks = True

    def __call__(self, hidden_ND: torch.Tensor, output_embedding: torch.nn.Linear) -> TokenStatistics:
        if self.outcomes.all:
            return super().__call__(hidden_ND, output_embedding)
        weight_VD, bias_V = output_embedding.weight, output_embedding.bias
        return TokenStatistics(*_ChunkedStatistics.apply(hidden_ND, weight_VD, bias_V, self))

    def chunks(self) -> Iterator[slice]:
        return chunks(len(self.token_ids), chunk_tokens(self.token_ids.device))


def chunk_tokens(device: torch.device) -> int:
    return CHUNK_TOKENS if device.type == "cpu" else CHUNK_TOKENS_ON_ACCELERATOR


def compared_tokens(device: torch.device) -> int:
    """Of a chunk where whole distributions are compared."""
    return min(chunk_tokens(device), COMPARED_TOKENS_ON_ACCELERATOR)


def chunks(tokens: int, size: int) -> Iterator[slice]:
    """Of no tokens there is one chunk, an empty one."""
    for start in range(0, max(tokens, 1), size):
        yield slice(start, start + size)


class _ChunkedStatistics(torch.autograd.Function):
    """`TokenStatistics` of hidden states, but for `all_log_probs`, which is None."""

    @staticmethod
    def forward(ctx, hidden_ND, weight_VD, bias_V, head: EagerHead):
        logits = ChunkLogits(hidden_ND, weight_VD, bias_V, head.temperature)
        parts = []
        for chunk, z_CV in logits:
            # One more tensor of that size, and all in place: fresh memory costs as much as the arithmetic.
            largest_C1 = z_CV.amax(-1, keepdim=True)
            z_CV -= largest_C1
            p_CV = torch.exp(z_CV, out=logits.scratch(z_CV))
            log_sum_C1 = p_CV.sum(-1, keepdim=True).log_()
            sampled_C = z_CV.gather(-1, head.token_ids[chunk].unsqueeze(-1)).sub_(log_sum_C1).squeeze(-1)
            topk_CK = indices_CK = None
            if head.outcomes.topk:
                if head.topk_indices is None:
                    indices_CK = z_CV.topk(head.outcomes.count(z_CV.shape[-1]), dim=-1).indices
                else:
                    indices_CK = head.topk_indices[chunk]
                topk_CK = z_CV.gather(-1, indices_CK).sub_(log_sum_C1)
            best_Cn = best_indices_Cn = None
            if head.best:
                best_Cn, best_indices_Cn = z_CV.topk(head.best, dim=-1)
                best_Cn -= log_sum_C1
            # -sum of p log p, with p not yet divided by its sum.
            mean_C = p_CV.mul_(z_CV).sum(-1).mul_(log_sum_C1.squeeze(-1).neg().exp_())
            entropy_C = log_sum_C1.squeeze(-1) - mean_C
            parts.append((largest_C1 + log_sum_C1, sampled_C, entropy_C, topk_CK, indices_CK, best_Cn, best_indices_Cn))
        columns = (None if column[0] is None else torch.cat(column) for column in zip(*parts, strict=True))
        normalizer, log_probs, entropy, topk, indices, best, best_indices = columns
        # The weight as it came, which FSDP frees and gathers again; not the copy in the compute dtype.
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, indices, entropy, normalizer)
        ctx.head, ctx.dtype = head, logits.dtype
        # Indices are whole numbers, which have no gradient anyhow.
        without_gradient = [best, None if head.entropy_has_gradient else entropy]
        ctx.mark_non_differentiable(*(values for values in without_gradient if values is not None))
        return log_probs, entropy, None, topk, indices, best, best_indices

    @staticmethod
    def backward(ctx, grad_sampled, grad_entropy, _, grad_topk, *__):
        """dL/dz = scatter(g_topk) + onehot(g_sampled) - softmax(z) (sum of both) - g_entropy p (log p + H)."""
        *projection, indices, entropy, normalizer_N1 = ctx.saved_tensors
        head = ctx.head
        logits = ChunkLogits(*projection, head.temperature, ctx.dtype)

        def gradient(chunk: slice, z_CV: torch.Tensor) -> torch.Tensor:
            z_CV -= normalizer_N1[chunk]
            total = grad_sampled[chunk] if grad_topk is None else grad_sampled[chunk] + grad_topk[chunk].sum(-1)
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
            if grad_topk is not None:
                z_CV.scatter_add_(-1, indices[chunk], grad_topk[chunk])
            return z_CV

        return *logits.gradients(gradient, of_weight=ctx.needs_input_grad[1]), None


Gradient = Callable[[slice, torch.Tensor], torch.Tensor]
"""(tokens, their logits, which are the function's to write on) -> the loss's gradient in the logits."""


class ChunkLogits:
    """Iterates over (slice, logits of these tokens), divided by the temperature, in at least float32.

    Each is written over by the next, and the caller's to write on. Of no tokens there is one chunk, an empty one.
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
        self.size = size or chunk_tokens(hidden_ND.device)
        self._buffers: dict[str, torch.Tensor] = {}

    def __iter__(self) -> Iterator[tuple[slice, torch.Tensor]]:
        return self._chunks(self.size)

    def _chunks(self, beside: int) -> Iterator[tuple[slice, torch.Tensor]]:
        """In the compute dtype the logits of so many tokens, whole chunks, are kept beside each other."""
        rows = min(beside, len(self.hidden))
        for chunk in chunks(len(self.hidden), self.size):
            hidden = self.hidden[chunk].to(self.dtype)
            start = chunk.start % beside
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
        """Another tensor of that shape, whatever it holds."""
        return self._buffer("scratch", len(like), like.dtype)

    def gradients(
        self, of_logits: Gradient, *, of_weight: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Of hidden states, weight and bias, in their own dtypes; sums over chunks in the wide one."""
        hidden_ND, weight_VD, bias_V = self.projection
        grad_hidden = torch.empty_like(hidden_ND)
        grad_weight = torch.empty_like(weight_VD, dtype=self.wide) if of_weight else None
        grad_bias = torch.zeros_like(bias_V, dtype=self.wide) if bias_V is not None else None
        is_narrow = self.dtype != self.wide
        # The gradients of several chunks, each over its logits, to be multiplied at once.
        product = max(PRODUCT_TOKENS // self.size, 1) * self.size if is_narrow else self.size
        start = 0
        for chunk, z_CV in self._chunks(product):
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
        """Of the first call's rows; later ones ask for no more."""
        if name not in self._buffers:
            self._buffers[name] = self.hidden.new_empty(rows, len(self.weight), dtype=dtype)
        return self._buffers[name][:rows]


def _compute_dtype(hidden: torch.Tensor) -> torch.dtype:
    """What a matrix product has here; autocast does not reach into a function of our own."""
    device = hidden.device.type
    if torch.is_autocast_enabled(device) and hidden.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return hidden.dtype


def _accumulate(
    grad_weight_VD: torch.Tensor, grad_logits_CV: torch.Tensor, hidden_CD: torch.Tensor, *, is_first: bool
) -> None:
    """grad_weight += grad_logits^T hidden, in the wide dtype; the first product is written over what is there."""
    if grad_weight_VD.dtype == hidden_CD.dtype:
        grad_weight_VD.addmm_(grad_logits_CV.T, hidden_CD, beta=0 if is_first else 1)
        return
    # The product comes in the narrow one: by parts, so that there is no second tensor of the weight's size.
    parts = zip(grad_weight_VD.split(VOCABULARY_PART), grad_logits_CV.split(VOCABULARY_PART, dim=1), strict=True)
    for grad_part, logits_part in parts:
        product = logits_part.T @ hidden_CD
        if is_first:
            grad_part.copy_(product)
        else:
            grad_part += product


HEADS: Mapping[str, type[EagerHead]] = {"chunked": ChunkedHead, "eager": EagerHead}
