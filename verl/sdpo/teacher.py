"""The self-teacher: which weights it scores with, how they follow the student, what of it goes into a checkpoint.

A teacher is made of what `adapters/` hands it: the models, and the weights of the reference. Section 2.3 of the paper,
Table 4.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, cast

import torch

from verl.sdpo.checks import is_positive_int, require, require_choice, require_fraction
from verl.sdpo.head import EagerHead, Logits, Projection, TokenStatistics
from verl.sdpo.model import Model, Rows

UPDATE_INTERVALS = ("step", "optimizer")
PLACEMENTS = ("auto", "gpu", "cpu")


class Weights(Protocol):
    """This rank's part of the reference model's weights, beside the student's. Every method is collective."""

    def follow(self, rate: float) -> float:
        """reference += rate * (student - reference), in float32; returns the new distance."""

    def distance(self) -> float:
        """||reference - student|| / ||student|| over all weights."""

    def save(self, folder: str, global_step: int, state: dict[str, Any]) -> None:
        """Write the reference's weights and the teacher's own state into the actor's checkpoint folder."""

    def load(self, folder: str) -> dict[str, Any]:
        """Read the weights back, and return the state."""


class Teacher:
    """A kind of teacher. What it needs stands in its class, where validation, capacity and role choice ask."""

    @dataclass(frozen=True)
    class Config:
        """What a kind needs that may be a second model."""

        teacher_placement: str = "auto"
        """Where its weights rest. gpu; cpu: in ordinary memory, from where every forward fetches them; auto: on the GPU
        where the doctor's estimate with them there is at most 85 % of it, else as cpu."""

        def __post_init__(self):
            require_choice("teacher_placement", self.teacher_placement, PLACEMENTS)

    needs_reference: ClassVar[bool] = True
    """It scores with another model beside the student: the initial one, or with `moves` one of its own."""
    moves: ClassVar[bool] = False
    """It changes those weights: they must be kept in float32, and are no fixed reference for a KL penalty."""
    saves: ClassVar[bool] = False
    """A resumed run cannot rebuild it, so it is part of the checkpoint."""
    num_forwards: ClassVar[int] = 1
    """Forward passes over its rows for their statistics."""
    mixes_logits: ClassVar[bool] = False
    """Its logits are made of two models'."""

    @classmethod
    def needs_second_model(cls, is_lora: bool) -> bool:
        """Whether that is a second copy in memory. With LoRA the initial model is the student without its adapter."""
        return cls.needs_reference and (cls.moves or not is_lora)

    def __init__(self, config: Any, *, student: Model, reference: Model | None, weights: Weights | None):
        """
        Args:
            student, reference: in evaluation mode whenever they run.
            weights: the reference's; None where there is none.
        """
        self.config = config
        self.student = student
        # None in a class that needs no reference, which then reads neither.
        self.reference = cast(Model, reference)
        self.weights = cast(Weights, weights)
        self.state: dict[str, Any] = {}
        """What a resumed run needs besides the weights; plain values."""

    @property
    def model(self) -> Model:
        """What scores."""
        return self.reference

    def statistics(self, rows: Rows, wanted_BT: torch.Tensor, head: EagerHead) -> TokenStatistics:
        """What the objective reads of the teacher at the wanted response tokens of its own rows; collective."""
        return self.model.run(rows, wanted_BT, head)

    def logits(self, rows: Rows, wanted_BT: torch.Tensor) -> Logits:
        """What `statistics` reads, for an objective that compares the whole vocabulary by chunks; collective."""
        return self.model.run(rows, wanted_BT, Projection.taken)

    def after_optimizer_step(self) -> None:
        """Follow the student, after each of a training step's optimizer steps."""

    def after_training_step(self) -> float:
        """Follow the student, at the end of a training step; returns the distance to it."""
        return self.weights.distance()

    def restart(self) -> None:
        """Become a copy of the student, where the weights move at all."""
        if self.moves:
            self.weights.follow(1.0)
            self.state = {}

    def save(self, folder: str, global_step: int) -> None:
        """Write what a resumed run cannot rebuild into the actor's checkpoint folder."""
        if self.saves:
            self.weights.save(folder, global_step, self.state)

    def load(self, folder: str) -> None:
        """Read it back.

        Raises:
            FileNotFoundError: when the checkpoint was written without such a teacher.
        """
        if self.saves:
            self.state = self.weights.load(folder)


class Frozen(Teacher):
    """The initial model."""


@dataclass(frozen=True)
class RateConfig(Teacher.Config):
    teacher_update_rate: float = 0.05
    """Weight of the student in each EMA update, and in the trust-region mix."""

    def __post_init__(self):
        super().__post_init__()
        require_fraction("teacher_update_rate", self.teacher_update_rate)


class ExponentialMovingAverage(Teacher):
    """The student's moving average, kept in float32: teacher += rate * (student - teacher)."""

    @dataclass(frozen=True)
    class Config(RateConfig):
        teacher_update_interval: str = "step"
        """When the EMA moves. step: once per training step, as the authors; optimizer: after every optimizer step."""

        def __post_init__(self):
            super().__post_init__()
            require_choice("teacher_update_interval", self.teacher_update_interval, UPDATE_INTERVALS)

    moves = saves = True

    def after_optimizer_step(self) -> None:
        if self.config.teacher_update_interval == "optimizer":
            self.weights.follow(self.config.teacher_update_rate)

    def after_training_step(self) -> float:
        if self.config.teacher_update_interval == "step":
            return self.weights.follow(self.config.teacher_update_rate)
        return self.weights.distance()


class Refresh(Teacher):
    """A copy of the student, taken every so many training steps and frozen in between."""

    @dataclass(frozen=True)
    class Config(Teacher.Config):
        teacher_refresh_interval: int = 50
        """Training steps between two copies."""

        def __post_init__(self):
            super().__post_init__()
            name = "teacher_refresh_interval"
            require(name, self.teacher_refresh_interval, is_positive_int, "a whole number of training steps >= 1")

    moves = saves = True

    def after_training_step(self) -> float:
        self.state["age"] = self.state.get("age", 0) + 1
        if self.state["age"] < self.config.teacher_refresh_interval:
            return self.weights.distance()
        self.state["age"] = 0
        return self.weights.follow(1.0)


class MixedInLogSpace(NamedTuple):
    """Logits of p_ref^(1-rate) * p_student^rate, normalised: the trust region's solution (Eq. 10)."""

    reference: Logits
    student: Logits
    rate: float

    def __call__(self, tokens: slice) -> torch.Tensor:
        return torch.lerp(self.reference(tokens), self.student(tokens), self.rate)


class TrustRegion(Teacher):
    """The initial model mixed in log space with the current student, at weight `rate`."""

    class Config(RateConfig):
        """The rate is the student's share of the mix."""

    num_forwards = 2
    mixes_logits = True

    def statistics(self, rows: Rows, wanted_BT: torch.Tensor, head: EagerHead) -> TokenStatistics:
        return head.read(self.logits(rows, wanted_BT))

    def logits(self, rows: Rows, wanted_BT: torch.Tensor) -> Logits:
        reference, student = (model.run(rows, wanted_BT, Projection.taken) for model in (self.reference, self.student))
        return MixedInLogSpace(reference, student, self.config.teacher_update_rate)


class Live(Teacher):
    """The student itself: no second copy of the weights, nothing to update, nothing to save."""

    @dataclass(frozen=True)
    class Config:
        """No settings."""

    needs_reference = False

    @property
    def model(self) -> Model:
        return self.student

    def after_training_step(self) -> float:
        return 0.0


TEACHERS: Mapping[str, type[Teacher]] = {
    "ema": ExponentialMovingAverage,
    "trust-region": TrustRegion,
    "frozen": Frozen,
    "refresh": Refresh,
    "live": Live,
}
