"""What a mixin over verl's trainers may use of them, for type checkers; at run time a mixin has no base."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer as Trainer
else:
    Trainer = object
