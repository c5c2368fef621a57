"""verl's FSDP actor configuration with what SDPO's engine adds."""

from dataclasses import dataclass, field

from verl.sdpo.config import SelfDistillationConfig
from verl.workers.config import FSDPActorConfig

SHARED_PREFIX = ("auto", "on", "off")


@dataclass
class SelfDistillationActorConfig(FSDPActorConfig):
    """What `actor_rollout_ref.actor._target_` names in `sdpo.yaml`."""

    self_distillation: SelfDistillationConfig = field(default_factory=SelfDistillationConfig)
    shared_prefix: str = "auto"
    """on, off, or auto: where the model can. Whether a prompt that several rows of a micro-batch begin with is computed
    once, for student, teacher and old log-probabilities."""

    def __post_init__(self):
        super().__post_init__()
        if self.shared_prefix not in SHARED_PREFIX:
            got = repr(self.shared_prefix)
            raise ValueError(f"actor_rollout_ref.actor.shared_prefix must be one of {SHARED_PREFIX}, got {got}.")
