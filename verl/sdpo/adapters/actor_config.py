"""verl's FSDP actor configuration with the block `self_distillation`."""

from dataclasses import dataclass, field

from verl.sdpo.config import SelfDistillationConfig
from verl.workers.config import FSDPActorConfig


@dataclass
class SelfDistillationActorConfig(FSDPActorConfig):
    """What `actor_rollout_ref.actor._target_` names in `sdpo.yaml`."""

    self_distillation: SelfDistillationConfig = field(default_factory=SelfDistillationConfig)
