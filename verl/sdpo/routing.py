"""Routing: which samples learn from the teacher, and which from the reward as in GRPO."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from verl.sdpo.checks import require_fraction


class Routing:
    """How a sample's learning is shared between teacher and reward."""

    @dataclass(frozen=True)
    class Config:
        """The kinds that need no settings."""

    teaches_successes: ClassVar[bool] = True
    """A sample that succeeded may have a teacher."""

    def __init__(self, config: Any):
        self.config = config

    @property
    def reads_rewards(self) -> bool:
        """Whether any sample learns from its reward."""
        return True

    def shares(self, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights of teacher and reward for each sequence, (B,) each.

        Args:
            targets: (B,) bool, whether the sequence has a teacher that knows something.
        """
        raise NotImplementedError


class Blend(Routing):
    """lambda x GRPO + (1 - lambda) x SDPO on every sample; one without a teacher learns from its reward alone (Eq. 3).

    The policy gradient of GRPO's advantage, on the sampled token, is not weighed by that token's probability, as Eq. 13
    read literally would have it: that would be no unbiased gradient of the reward.
    """

    @dataclass(frozen=True)
    class Config(Routing.Config):
        grpo_weight: float = 0.0
        """Lambda, the share of the reward; the paper's hybrid takes 0.9. 0.0: the teacher alone."""

        def __post_init__(self):
            require_fraction("grpo_weight", self.grpo_weight)

    @property
    def reads_rewards(self) -> bool:
        return self.config.grpo_weight > 0

    def shares(self, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ones, weight = torch.ones_like(targets, dtype=torch.float64), self.config.grpo_weight
        return ones * (1 - weight), ones * weight


class FailuresToTeacher(Routing):
    """SRPO (arXiv 2604.02288): failed samples that have a teacher learn from it, all others from their reward."""

    teaches_successes = False

    def shares(self, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return targets.double(), (~targets).double()


ROUTINGS: Mapping[str, type[Routing]] = {"blend": Blend, "srpo": FailuresToTeacher}
