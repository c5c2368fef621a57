"""Trainers under their `trainer.v1.trainer_mode`, and the lists of their extensions. Importing this registers them."""

from verl.sdpo.config import STOPPABLE_MODE, TRAINER_MODE
from verl.sdpo.trainer.dump import ResponseDump
from verl.sdpo.trainer.guard import MetricsGuard
from verl.sdpo.trainer.hooks import Extension
from verl.sdpo.trainer.limits import StopFile, TimeBudget
from verl.sdpo.trainer.mixin import ExtendedTrainer
from verl.sdpo.trainer.teacher_batch import TeacherBatch
from verl.sdpo.trainer.teacher_eval import TeacherEval
from verl.sdpo.trainer.throughput import Throughput
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_colocate_async import PPOTrainerColocateAsync
from verl.trainer.ppo.v1.trainer_separate_async import PPOTrainerSeparateAsync
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

Extensions = tuple[type[Extension], ...]

# In the order of their calls. Every run has these, GRPO as well; the guard is the last, as it may end the run or take
# it back.
EVERY_RUN: Extensions = (StopFile, TimeBudget, MetricsGuard)
# The dump needs the teacher's rows.
SDPO: Extensions = (TeacherBatch, ResponseDump, TeacherEval, Throughput, *EVERY_RUN)


class GuardedTrainer(ExtendedTrainer):
    """Trains as verl does."""

    extension_types = EVERY_RUN


class SelfDistillationTrainer(ExtendedTrainer):
    """Trains by SDPO."""

    extension_types = SDPO


@register_trainer(STOPPABLE_MODE)
class GuardedSync(GuardedTrainer, PPOTrainerSync):
    """A response is trained on by the weights that wrote it."""


@register_trainer("colocate_async_stoppable")
class GuardedColocateAsync(GuardedTrainer, PPOTrainerColocateAsync):
    """Responses that are unfinished when a step has enough go on with the next weights."""


@register_trainer("separate_async_stoppable")
class GuardedSeparateAsync(GuardedTrainer, PPOTrainerSeparateAsync):
    """Generation has accelerators of its own, and gets weights after several updates."""


@register_trainer(TRAINER_MODE)
class SelfDistillationSync(SelfDistillationTrainer, PPOTrainerSync): ...


@register_trainer("sdpo_colocate_async")
class SelfDistillationColocateAsync(SelfDistillationTrainer, PPOTrainerColocateAsync): ...


@register_trainer("sdpo_separate_async")
class SelfDistillationSeparateAsync(SelfDistillationTrainer, PPOTrainerSeparateAsync): ...
