"""Self-Distilled Policy Optimization (arXiv 2601.20802) as a plain loop: the algorithm to read first.

One process, one response at a time, all logits in memory. The engine makes the same updates in packed micro-batches
on several ranks, without logits of all tokens; `test_trajectory.py` compares the two update by update.

Shapes: `T` tokens of a response, `V` vocabulary, `K` top-k support.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Settings:
    alpha: float = 0.5
    """Divergence: 0 forward KL, 1 reverse KL, between generalised Jensen-Shannon."""
    topk: int | None = 100
    """Tokens of the student's distribution that are compared, beside one bucket for the rest; None: the vocabulary."""
    teacher: str = "ema"
    """ema: moving average of the student; trust-region: the initial model mixed with the student in log space."""
    teacher_rate: float = 0.05
    grpo_weight: float = 0.0
    """Share of GRPO in the loss; 1 is GRPO alone."""
    mini_batches: int = 1
    """Optimizer updates of a training step."""
    lr: float = 1e-3
    weight_decay: float = 0.01
    adam_eps: float = 1e-8
    temperature: float = 1.0
    max_grad_norm: float = 1.0
    is_clip: float = 2.0
    """Upper bound of the importance ratio that weighs the divergence of a token."""
    ppo_clip: tuple[float, float, float] = (0.2, 0.28, 3.0)
    """Lower and upper clip of GRPO's ratio, and the bound of its loss where the advantage is negative."""


@dataclass(frozen=True)
class Attempt:
    prompt: torch.Tensor
    """Token ids that the student answered."""
    teacher_prompt: torch.Tensor | None
    """Token ids of the same question with the context; None: nothing to show."""
    response: torch.Tensor
    """(T,) token ids."""
    advantage: float
    """Reward less the mean reward of the group."""


class Trainer:
    def __init__(self, model: torch.nn.Module, settings: Settings):
        self.settings = settings
        self.student = model
        self.teacher = copy.deepcopy(model).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=settings.lr, eps=settings.adam_eps, weight_decay=settings.weight_decay
        )

    def step(self, attempts: Sequence[Attempt]) -> None:
        """Train on the attempts of some groups."""
        with torch.no_grad():
            old_log_probs = [sampled(self.student_log_probs(a), a.response) for a in attempts]
        size = len(attempts) // self.settings.mini_batches
        for start in range(0, len(attempts), size):
            mini_batch = range(start, start + size)
            self.optimizer.zero_grad()
            # Every sequence of the mini-batch weighs the same, also one without a teacher.
            for i in mini_batch:
                (self.loss(attempts[i], old_log_probs[i]) / size).backward()
            torch.nn.utils.clip_grad_norm_(self.student.parameters(), self.settings.max_grad_norm)
            self.optimizer.step()
        if self.settings.teacher == "ema":
            for mean, weight in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                mean.lerp_(weight.detach(), self.settings.teacher_rate)

    def loss(self, attempt: Attempt, old_log_probs_T: torch.Tensor) -> torch.Tensor:
        """Mean over the response's tokens of the hybrid loss (Eq. 3)."""
        student_TV = self.student_log_probs(attempt)
        ratio_T = (sampled(student_TV, attempt.response) - old_log_probs_T).exp()
        share = self.settings.grpo_weight
        loss_T = share * self.policy_loss(ratio_T, attempt.advantage)
        if attempt.teacher_prompt is not None and share < 1:
            weight_T = ratio_T.detach().clamp(max=self.settings.is_clip)
            loss_T = loss_T + (1 - share) * weight_T * self.divergence(student_TV, self.teacher_log_probs(attempt))
        return loss_T.mean()

    def divergence(self, student_TV: torch.Tensor, teacher_TV: torch.Tensor) -> torch.Tensor:
        """(T,) divergence of the next-token distributions at the student's top-k and the rest (Eq. 1, App. A.3)."""
        alpha, k = self.settings.alpha, self.settings.topk
        if k is not None:
            support_TK = student_TV.topk(k).indices
            student_TV, teacher_TV = with_tail(student_TV, support_TK), with_tail(teacher_TV, support_TK)
        if alpha in (0, 1):
            return kl(teacher_TV, student_TV) if alpha == 0 else kl(student_TV, teacher_TV)
        mixture = torch.logaddexp(student_TV + math.log(1 - alpha), teacher_TV + math.log(alpha))
        return (1 - alpha) * kl(student_TV, mixture) + alpha * kl(teacher_TV, mixture)

    def policy_loss(self, ratio_T: torch.Tensor, advantage: float) -> torch.Tensor:
        """(T,) PPO's clipped loss."""
        low, high, bound = self.settings.ppo_clip
        loss_T = -torch.minimum(ratio_T * advantage, ratio_T.clamp(1 - low, 1 + high) * advantage)
        return loss_T.clamp(max=-bound * advantage) if advantage < 0 else loss_T

    def student_log_probs(self, attempt: Attempt) -> torch.Tensor:
        return self.logits(self.student, attempt.prompt, attempt.response).log_softmax(-1)

    @torch.no_grad()
    def teacher_log_probs(self, attempt: Attempt) -> torch.Tensor:
        logits = self.logits(self.teacher, attempt.teacher_prompt, attempt.response)
        if self.settings.teacher == "trust-region":
            current = self.logits(self.student, attempt.teacher_prompt, attempt.response)
            logits = torch.lerp(logits, current, self.settings.teacher_rate)
        return logits.log_softmax(-1)

    def logits(self, model: torch.nn.Module, prompt: torch.Tensor, response: torch.Tensor) -> torch.Tensor:
        """(T, V) logits that predict each token of the response."""
        logits = model(torch.cat([prompt, response]).unsqueeze(0)).logits[0]
        return logits[len(prompt) - 1 : -1] / self.settings.temperature


def sampled(log_probs_TV: torch.Tensor, response: torch.Tensor) -> torch.Tensor:
    return log_probs_TV.gather(-1, response.unsqueeze(-1)).squeeze(-1)


def with_tail(log_probs_TV: torch.Tensor, support_TK: torch.Tensor) -> torch.Tensor:
    """(T, K + 1) log-probabilities of the support's tokens and of all others together."""
    inside_TK = log_probs_TV.gather(-1, support_TK)
    log_mass_T1 = inside_TK.logsumexp(-1, keepdim=True).clamp(max=-1e-7)
    return torch.cat([inside_TK, (-log_mass_T1.expm1()).log()], dim=-1)


def kl(p_log: torch.Tensor, q_log: torch.Tensor) -> torch.Tensor:
    return (p_log.exp() * (p_log - q_log)).sum(-1)
