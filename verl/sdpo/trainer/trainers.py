"""Our trainers: each of verl's, with what we add to all of them. Importing this registers them."""

from verl.sdpo.config import STOPPABLE_MODE, TRAINER_MODE
from verl.sdpo.trainer.guard import GuardMixin
from verl.sdpo.trainer.teacher_eval import TeacherEvalMixin
from verl.sdpo.trainer.trainer import TeacherRowsMixin
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_colocate_async import PPOTrainerColocateAsync
from verl.trainer.ppo.v1.trainer_separate_async import PPOTrainerSeparateAsync
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync


class SelfDistillationMixin(TeacherEvalMixin, TeacherRowsMixin, GuardMixin):
    """SDPO's step."""


@register_trainer(STOPPABLE_MODE)
class GuardedTrainer(GuardMixin, PPOTrainerSync):
    """A response is learnt from by the weights that wrote it."""


@register_trainer("colocate_async_stoppable")
class GuardedColocateAsync(GuardMixin, PPOTrainerColocateAsync):
    """Responses that are not finished when a step has enough go on with the next weights."""


@register_trainer("separate_async_stoppable")
class GuardedSeparateAsync(GuardMixin, PPOTrainerSeparateAsync):
    """Generation has accelerators of its own, and gets weights after several updates."""


@register_trainer(TRAINER_MODE)
class SelfDistillationTrainer(SelfDistillationMixin, PPOTrainerSync): ...


@register_trainer("sdpo_colocate_async")
class ColocateAsyncTrainer(SelfDistillationMixin, PPOTrainerColocateAsync): ...


@register_trainer("sdpo_separate_async")
class SeparateAsyncTrainer(SelfDistillationMixin, PPOTrainerSeparateAsync): ...
