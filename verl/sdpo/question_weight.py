"""Weights of the questions of a batch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class QuestionWeights:
    """Rule that weights the questions of a batch."""

    @dataclass(frozen=True)
    class Config:
        """No settings, in the base class."""

    def __init__(self, config: Any):
        self.config = config

    def weigh(self, success_rates: Sequence[float]) -> list[float]:
        """Return the weight of each question, from the success rates of its samples."""
        raise NotImplementedError


class Equal(QuestionWeights):
    """All alike."""

    def weigh(self, success_rates: Sequence[float]) -> list[float]:
        return [1.0] * len(success_rates)


class Uncertainty(QuestionWeights):
    """SC-SDPO (arXiv 2605.27765): sqrt(p (1 - p)), divided by its mean over the batch.

    Questions that are always or never solved weigh nothing, and so does a batch that has no others.
    """

    def weigh(self, success_rates: Sequence[float]) -> list[float]:
        deviations = [math.sqrt(p * (1 - p)) for p in success_rates]
        total = sum(deviations)
        return [len(deviations) * deviation / total if total else 0.0 for deviation in deviations]


QUESTION_WEIGHTS: Mapping[str, type[QuestionWeights]] = {"equal": Equal, "uncertainty": Uncertainty}
