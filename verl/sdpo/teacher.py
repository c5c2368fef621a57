"""The self-teacher: which weights it scores with, how they follow the student, what of it goes into a checkpoint.

An engine is verl's `FSDPEngine`. `reference` holds the weights of verl's colocated ref model, `student` those of the
actor. Both are wrapped alike, so that their parameters pair up shard by shard.
"""

import math
import os
from collections.abc import Callable, Iterator

import torch
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP

from verl.sdpo.config import BLOCK, SelfDistillationConfig
from verl.sdpo.loss import mix_in_log_space
from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager
from verl.utils.device import get_device_name
from verl.workers.engine.fsdp.transformer_impl import FSDPEngine

CHECKPOINT_FOLDER = "teacher"

Score = Callable[[FSDPEngine], torch.Tensor]


def reshard(module: torch.nn.Module) -> None:
    """Make every FSDP unit forget its gathered parameters, so that its next forward reads the shards.

    After a forward without gradient the root unit (embeddings, final norm, lm_head) of FSDP1 stays gathered, and would
    go on serving the old weights after its shard has been changed in place.
    """
    for unit in FSDP.fsdp_modules(module):
        # Until the first forward FSDP1 has gathered nothing, and has not made the attributes that `reshard` reads.
        if unit._handle is not None and hasattr(unit._handle.flat_param, "_local_shard"):
            # A single rank has nothing gathered to free, and FSDP1 refuses to.
            unit._handle.reshard(free_unsharded_flat_param=unit._handle.uses_sharded_strategy)
    for unit in module.modules():
        if isinstance(unit, FSDPModule):
            unit.reshard()


def _shards(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    """This rank's part of every parameter, sharing its storage."""
    for parameter in module.parameters():
        yield parameter.to_local() if hasattr(parameter, "to_local") else parameter.data


class FrozenTeacher:
    """The initial model."""

    def __init__(self, reference: FSDPEngine, student: FSDPEngine, rate: float):
        self.reference = reference
        self.student = student
        self.rate = rate

    def logits(self, score: Score) -> torch.Tensor:
        """Teacher logits, where `score(engine)` runs one engine on the teacher's rows; collective under FSDP."""
        with self.reference.eval_mode(disable_auto_offload=True):
            return score(self.reference)

    def _student_logits(self, score: Score) -> torch.Tensor:
        """The student in the teacher's place: without dropout, and unseen by what verl does with a training forward.

        Activation offload counts the layers of a forward, and would take this one for a part of the student's own.
        """
        self.student.module.eval()
        try:
            return score(self.student)
        finally:
            self.student.module.train()

    def update(self) -> None:
        """Follow the student, after an optimizer step or a training step."""

    @torch.no_grad()
    def distance(self) -> float:
        """||teacher - student|| / ||student|| over all weights; collective."""
        reshard(self.reference.module)
        squares = torch.zeros(2, dtype=torch.float64, device=get_device_name())
        for teacher, student in zip(_shards(self.reference.module), _shards(self.student.module), strict=True):
            difference = teacher.to(student.device) - student
            norms = [torch.linalg.vector_norm(shard, dtype=torch.float64) for shard in (difference, student)]
            squares += torch.stack(norms).square().to(squares.device)
        torch.distributed.all_reduce(squares, group=self.student.get_data_parallel_group())
        difference, norm = squares.sqrt().tolist()
        return difference / norm if norm else math.nan

    def save(self, folder: str, global_step: int) -> None:
        """Write what a resumed run cannot rebuild into the actor's checkpoint folder."""

    def load(self, folder: str) -> None:
        """Read it back."""


class EMATeacher(FrozenTeacher):
    """Exponential moving average of the student, kept in float32: teacher += rate * (student - teacher)."""

    @torch.no_grad()
    def update(self) -> None:
        reshard(self.reference.module)
        for teacher, student in zip(_shards(self.reference.module), _shards(self.student.module), strict=True):
            assert teacher.shape == student.shape, (teacher.shape, student.shape)
            # On the student's device: the reference rests in ordinary memory, where Ray leaves few threads to a worker.
            teacher.copy_(torch.lerp(teacher.to(student.device), student.to(teacher.dtype), self.rate))

    def save(self, folder: str, global_step: int) -> None:
        reshard(self.reference.module)
        self._checkpoint_manager().save_checkpoint(os.path.join(folder, CHECKPOINT_FOLDER), global_step=global_step)

    def load(self, folder: str) -> None:
        """
        Raises:
            FileNotFoundError: when the checkpoint was written without an EMA teacher.
        """
        path = os.path.join(folder, CHECKPOINT_FOLDER)
        if not os.path.isdir(path):
            raise FileNotFoundError(
                f"{path}: the checkpoint holds no teacher, so {BLOCK}.teacher_regularization=ema cannot be resumed "
                "from it. Resume from a checkpoint of an ema run, or start anew with trainer.resume_mode=disable."
            )
        reshard(self.reference.module)
        self._checkpoint_manager().load_checkpoint(path)

    def _checkpoint_manager(self) -> FSDPCheckpointManager:
        contents = {"save_contents": ["model"], "load_contents": ["model"]}
        return FSDPCheckpointManager(
            model=self.reference.module,
            processing_class=self.reference.model_config.get_processor(),
            checkpoint_config=contents,
        )


class TrustRegionTeacher(FrozenTeacher):
    """The initial model mixed in log space with the current student, at weight `rate`."""

    def logits(self, score: Score) -> torch.Tensor:
        return mix_in_log_space(super().logits(score), self._student_logits(score), self.rate)


class LiveTeacher(FrozenTeacher):
    """The student itself: no second copy of the weights, nothing to update, nothing to save."""

    def __init__(self, student: FSDPEngine):
        self.student = student

    def logits(self, score: Score) -> torch.Tensor:
        return self._student_logits(score)

    def distance(self) -> float:
        return 0.0


def make_teacher(config: SelfDistillationConfig, reference: FSDPEngine | None, student: FSDPEngine) -> FrozenTeacher:
    """The teacher that `teacher_regularization` names; `reference` is None for the live one only."""
    if config.teacher_regularization == "live":
        return LiveTeacher(student)
    kinds = {"ema": EMATeacher, "trust-region": TrustRegionTeacher, "frozen": FrozenTeacher}
    return kinds[config.teacher_regularization](reference, student, config.teacher_update_rate)
