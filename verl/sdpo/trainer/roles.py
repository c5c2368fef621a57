"""The worker that trains student and teacher, in the place of verl's."""

import ray
from omegaconf import DictConfig

from verl.sdpo.config import is_lora, parse_block
from verl.sdpo.engine.worker import SelfDistillationWorker
from verl.trainer.ppo.utils import Role


def use_self_distillation_worker(config: DictConfig, workers: dict, pools: dict) -> None:
    """Replace the actor's worker in both of verl's mappings from roles.

    verl builds a reference model only for a KL penalty. Here that model is the teacher, so the role changes where the
    teacher is a second model.
    """
    role = Role.ActorRollout if Role.ActorRollout in workers else Role.ActorRolloutRef
    del workers[role]
    pool = pools.pop(role)
    if parse_block(config).teacher_class.needs_second_model(is_lora(config)):
        role = Role.ActorRolloutRef
    workers[role] = ray.remote(SelfDistillationWorker)
    pools[role] = pool
