"""The self-teacher: the weights that it scores with, how they follow the student, and its part of a checkpoint.

A teacher is built from the models and the weights of the reference, which engine/weights.py provides. Section 2.3 and
Table 4 of the paper.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, cast

import torch

from verl.sdpo.checks import is_positive_int, require, require_choice, require_fraction
from verl.sdpo.head import (
    FLOAT32_BYTES,
    Head,
    HeadShape,
    Logits,
    Projection,
    Support,
    TokenStatistics,
    chunk_tokens,
)
from verl.sdpo.model import Model, Rows

UPDATE_INTERVALS = ("step", "optimizer")
PLACEMENTS = ("auto", "gpu", "cpu")
# An update of the student in forward passes: its own, and a backward pass that takes two.
UPDATE_PASSES = 3


class Weights(Protocol):
    """This rank's shards of the reference model's weights and of the student's. Every method is collective."""

    def follow(self, rate: float) -> float:
        """Move the reference in float32, reference += rate * (student - reference), and return the new distance."""

    def distance(self) -> float:
        """Return ||reference - student|| / ||student|| over all weights."""

    def save(self, folder: str, global_step: int, state: dict[str, Any]) -> None:
        """Write the reference's weights and the teacher's own state into the actor's checkpoint folder."""

    def load(self, folder: str) -> dict[str, Any]:
        """Load the weights, and return the state."""


class Teacher:
    """One kind of teacher. Class attributes say what it needs of memory, roles and forward passes."""

    @dataclass(frozen=True)
    class Config:
        """Keys of every teacher that may be a second model."""

        teacher_placement: str = "auto"
        """Place of the teacher's weights. gpu; cpu: offloaded to host memory and copied in for every forward
        pass; auto: on the GPU if the estimated peak is then at most 85 % of its memory, else as cpu."""

        def __post_init__(self):
            require_choice("teacher_placement", self.teacher_placement, PLACEMENTS)

    needs_reference: ClassVar[bool] = True
    """The teacher scores with a model besides the student: the initial one, or with `moves` one of its own."""
    moves: ClassVar[bool] = False
    """The weights of that model change: they must be kept in float32, and are no fixed reference for a KL penalty."""
    saves: ClassVar[bool] = False
    """The teacher is part of the checkpoint, because a resumed run cannot rebuild it."""
    passes: ClassVar[int] = 1
    """Number of forward passes over the teacher's rows."""

    @classmethod
    def needs_second_model(cls, is_lora: bool) -> bool:
        """Return whether the teacher is a second model in memory.

        With LoRA the initial model is the student without its adapter.
        """
        return cls.needs_reference and (cls.moves or not is_lora)

    @classmethod
    def peak_bytes(cls, shape: HeadShape, support: Support) -> int:
        """Return the most bytes that the teacher's own statistics hold at once, 0 if they are a plain head's."""
        return projected_bytes(shape, cls.passes) if support.of == "union" else 0

    def __init__(self, config: Any, *, student: Model, reference: Model | None, weights: Weights | None):
        """Wire the teacher.

        Args:
            student, reference: in evaluation mode whenever they run.
            weights: the reference's; None where there is none.
        """
        self.config = config
        self.student = student
        # None for a class that needs no reference, and never reads them.
        self.reference = cast(Model, reference)
        self.weights = cast(Weights, weights)
        self.state: dict[str, Any] = {}
        """State that a resumed run needs besides the weights; plain values."""

    @property
    def model(self) -> Model:
        """The model that scores."""
        return self.reference

    def statistics(self, rows: Rows, mask_BT: torch.Tensor, head: Head) -> TokenStatistics:
        """Return the teacher's statistics at the masked response tokens of its own rows; collective."""
        return self.model.run(rows, mask_BT, head)

    def logits(self, rows: Rows, mask_BT: torch.Tensor) -> Logits:
        """Return the logits behind `statistics`, to be read by chunks or more than once; collective."""
        return self.model.run(rows, mask_BT, Projection.taken)

    def after_optimizer_step(self) -> None:
        """Follow the student after an optimizer step, of which a training step may have several."""

    def after_training_step(self) -> float:
        """Follow the student at the end of a training step, and return the distance to it."""
        return self.weights.distance()

    def restart(self) -> None:
        """Become a copy of the student, if the weights move at all."""
        if self.moves:
            self.weights.follow(1.0)
            self.state = {}

    def save(self, folder: str, global_step: int) -> None:
        """Write weights and state into the actor's checkpoint folder, if a resumed run cannot rebuild them."""
        if self.saves:
            self.weights.save(folder, global_step, self.state)

    def load(self, folder: str) -> None:
        """Load what `save` wrote.

        Raises:
            FileNotFoundError: when the checkpoint was written without such a teacher.
        """
        if self.saves:
            self.state = self.weights.load(folder)


class Frozen(Teacher):
    """The initial model."""


@dataclass(frozen=True)
class RateConfig(Teacher.Config):
    """Keys of the teachers with a rate."""

    teacher_update_rate: float = 0.05
    """Weight of the student in each EMA update, and in the trust-region mix."""

    def __post_init__(self):
        super().__post_init__()
        require_fraction("teacher_update_rate", self.teacher_update_rate)


class ExponentialMovingAverage(Teacher):
    """Moving average of the student, kept in float32: teacher += rate * (student - teacher)."""

    @dataclass(frozen=True)
    class Config(RateConfig):
        teacher_update_interval: str = "step"
        """Moment at which the EMA moves. step: once per training step, as the authors; optimizer: after every optimizer
        step."""

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
    """A copy of the student, taken every `teacher_refresh_interval` training steps and frozen in between."""

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


def projected_bytes(shape: HeadShape, models: int) -> int:
    """Return the bytes of reading the `Projection`s of so many models: a chunk's statistics, and the embeddings."""
    # Float32 tensors of (C, V) that are alive at once, as torch.profiler counts them.
    copies = 3
    return copies * FLOAT32_BYTES * shape.logits(chunk_tokens(shape.device_type)) + models * shape.weight_bytes


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

    passes = 2

    @classmethod
    def peak_bytes(cls, shape: HeadShape, support: Support) -> int:
        return projected_bytes(shape, cls.passes)

    def statistics(self, rows: Rows, mask_BT: torch.Tensor, head: Head) -> TokenStatistics:
        return head.read(self.logits(rows, mask_BT))

    def logits(self, rows: Rows, mask_BT: torch.Tensor) -> Logits:
        reference, student = (model.run(rows, mask_BT, Projection.taken) for model in (self.reference, self.student))
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
