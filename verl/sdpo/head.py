"""What is needed of a model's next-token distributions, computed where its language-model head stands.

Shapes: `N` tokens of a flat batch, `D` hidden size, `V` vocabulary, `K` compared tokens. Log-probabilities are natural
logarithms of distributions over the *whole* vocabulary at the rollout temperature.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F

# Rows of logits whose entropy is computed at once, so that no second (N, V) tensor is ever alive.
ENTROPY_CHUNK = 256


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

    def at(self, chosen: torch.Tensor) -> "TokenStatistics":
        """Those of the positions where `chosen`, (N,) bool, is true."""
        return TokenStatistics(*(None if values is None else values[chosen] for values in self))


@dataclass(frozen=True)
class EagerHead:
    """The readable one: all logits at once, (N, V), and every statistic from them.

    Called as the head of a model, with its hidden states (N, D) and its output embedding; `logits` and `reduce` are
    its two halves, between which the logits of two models can be mixed.
    """

    token_ids: torch.Tensor
    """(N,), the sampled tokens."""
    outcomes: Outcomes
    temperature: float = 1.0
    topk_indices: torch.Tensor | None = None
    """(N, K), where to read a teacher: the student's top-k. None: the top-k of these logits."""
    entropy_has_gradient: bool = False

    def __call__(self, hidden_ND: torch.Tensor, output_embedding: torch.nn.Linear) -> TokenStatistics:
        return self.reduce(self.logits(hidden_ND, output_embedding))

    def logits(self, hidden_ND: torch.Tensor, output_embedding: torch.nn.Linear) -> torch.Tensor:
        """(N, V), divided by the temperature."""
        logits_NV = F.linear(hidden_ND, output_embedding.weight, output_embedding.bias)
        # Dividing copies the largest tensor of the step.
        return logits_NV if self.temperature == 1.0 else logits_NV / self.temperature

    def reduce(self, logits_NV: torch.Tensor) -> TokenStatistics:
        """The statistics of logits that are divided by the temperature; any floating dtype, at least float32 inside."""
        logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
        log_normalizer_N1 = torch.logsumexp(logits_NV, dim=-1, keepdim=True)
        sampled_N = logits_NV.gather(-1, self.token_ids.unsqueeze(-1)).sub(log_normalizer_N1).squeeze(-1)
        if self.entropy_has_gradient:
            entropy_N = _entropy(logits_NV, log_normalizer_N1)
        else:
            entropy_N = _entropy(logits_NV.detach(), log_normalizer_N1.detach())
        if self.outcomes.all:
            return TokenStatistics(sampled_N, entropy_N, all_log_probs=logits_NV - log_normalizer_N1)
        if not self.outcomes.topk:
            return TokenStatistics(sampled_N, entropy_N)
        indices_NK = self.topk_indices
        if indices_NK is None:
            indices_NK = logits_NV.detach().topk(self.outcomes.count(logits_NV.shape[-1]), dim=-1).indices
        topk_NK = logits_NV.gather(-1, indices_NK) - log_normalizer_N1
        return TokenStatistics(sampled_N, entropy_N, topk_log_probs=topk_NK, topk_indices=indices_NK)


def _entropy(logits_NV: torch.Tensor, log_normalizer_N1: torch.Tensor) -> torch.Tensor:
    """Entropy in nats, (N,), of softmax(logits)."""
    chunks = zip(logits_NV.split(ENTROPY_CHUNK), log_normalizer_N1.split(ENTROPY_CHUNK), strict=True)
    return torch.cat([z.squeeze(-1) - ((x - z).exp() * x).sum(-1) for x, z in chunks])
