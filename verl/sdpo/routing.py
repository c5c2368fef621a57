"""Routing: how each sample's loss is shared between the teacher and, as in GRPO, the reward."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from verl.sdpo.checks import require_fraction


class Routing:
    """Rule that weights teacher and reward for each sample."""

    @dataclass(frozen=True)
    class Config:
        """No settings, in the base class."""

    teaches_successes: ClassVar[bool] = True
    """Successful samples may have a teacher context."""

    def __init__(self, config: Any):
        self.config = config

    @property
    def reads_rewards(self) -> bool:
        """True if any sample may learn from its reward."""
        return True

    def shares(self, has_context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the weights of teacher and reward for each sequence, (B,) each.

        Args:
            has_context: (B,) bool, true for sequences that have a teacher context.
        """
        raise NotImplementedError


class Blend(Routing):
    """lambda x GRPO + (1 - lambda) x SDPO on every sample (Eq. 3); without a teacher context, lambda x GRPO alone.

    The policy gradient of GRPO's advantage, on the sampled token, is not weighted by that token's probability, as a
    literal reading of Eq. 13 would have it: that would be no unbiased gradient of the reward.
    """

    @dataclass(frozen=True)
    class Config(Routing.Config):
        grpo_weight: float = 0.0
        """Lambda, the weight of the reward; the paper's hybrid takes 0.9. 0.0: the teacher alone."""

        def __post_init__(self):
            require_fraction("grpo_weight", self.grpo_weight)

    @property
    def reads_rewards(self) -> bool:
        return self.config.grpo_weight > 0

    def shares(self, has_context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ones, weight = torch.ones_like(has_context, dtype=torch.float64), self.config.grpo_weight
        return ones * (1 - weight), ones * weight


class FailuresToTeacher(Routing):
    """SRPO (arXiv 2604.02288): failed samples with a teacher context learn from it, all others from their reward."""

    teaches_successes = False

    def shares(self, has_context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return has_context.double(), (~has_context).double()


ROUTINGS: Mapping[str, type[Routing]] = {"blend": Blend, "srpo": FailuresToTeacher}
