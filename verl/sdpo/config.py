"""The block `actor_rollout_ref.actor.self_distillation`: flat in the yaml, parsed once into three frozen parts.

The meaning and default of every key stand in the configurations of the parts: of the objectives (objective.py), of the
teachers (teacher.py), and of what the teacher reads (reprompt.py). `plugin.py` hands the defaults to Hydra, so that the
yaml files never repeat them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from verl.sdpo.checks import BLOCK, require_bool, require_choice
from verl.sdpo.head import HEADS
from verl.sdpo.objective import OBJECTIVES, Objective
from verl.sdpo.reprompt import DEMONSTRATIONS, Demonstrations, RepromptConfig
from verl.sdpo.teacher import TEACHERS

LOSS_MODE = "sdpo"
TRAINER_MODE = "sdpo"
TEST_TIME_MODE = "sdpo_ttt"


@dataclass(frozen=True)
class Choices:
    """The keys that choose a class; every other key belongs to the configuration of a class."""

    objective: str = "divergence"
    """How student and teacher are compared: a name in `OBJECTIVES`."""

    full_logit_distillation: bool = True
    """The authors' key: False compares only the sampled token (objective sampled-token)."""

    teacher_regularization: str = "ema"
    """ema: moving average of the student; trust-region: log-space mix of the initial model and the student;
    frozen: the initial model; live: the student itself."""

    demonstration_choice: str = "first"
    """Which success of the group is shown. first: the first one, as the authors; random: any."""

    head: str = "chunked"
    """How the statistics of next-token distributions are computed: a name in `HEADS`. chunked: some tokens at a time;
    eager: all logits at once, to compare with."""

    def __post_init__(self):
        require_choice("head", self.head, HEADS)
        require_choice("objective", self.objective, OBJECTIVES)
        require_bool("full_logit_distillation", self.full_logit_distillation)
        require_choice("teacher_regularization", self.teacher_regularization, TEACHERS)
        require_choice("demonstration_choice", self.demonstration_choice, DEMONSTRATIONS)
        if not self.full_logit_distillation and self.objective not in ("divergence", "sampled-token"):
            raise ValueError(
                f"{BLOCK}.full_logit_distillation=False is the objective sampled-token, but {BLOCK}.objective="
                f"{self.objective}. Set full_logit_distillation=True, or leave the objective out."
            )


def defaults() -> dict[str, Any]:
    """Every key of the block with its default."""
    kinds = [kind for choices in (OBJECTIVES, TEACHERS, DEMONSTRATIONS) for kind in choices.values()]
    parts = [Choices, *(kind.Config for kind in kinds), RepromptConfig]
    known: dict[str, Any] = {}
    for part in parts:
        for field in fields(part):
            if known.setdefault(field.name, field.default) != field.default:
                raise ValueError(
                    f"{part.__qualname__}.{field.name}={field.default!r}: another class has the default "
                    f"{known[field.name]!r} for this key. Take the same, or another name."
                )
    return known


class SelfDistillationConfig:
    """How the model teaches itself: `SelfDistillationConfig(**keys_of_the_block)`, the authors' keys or ours.

    Attributes:
        choices: the keys that chose the classes.
        objective: how student and teacher are compared.
        teacher_kind, teacher: the class of the teacher, and its frozen configuration.
        head: the class that computes the statistics.
        reprompt, demonstrations: what the teacher reads, and which success it is shown.
        ignored: keys that differ from their default and that none of the chosen classes reads.

    Raises:
        ValueError: naming the key, its value and what to set instead.
    """

    def __init__(self, **block: Any):
        known = defaults()
        for key, value in block.items():
            if key not in known:
                raise ValueError(f"{BLOCK}.{key}={value!r}: there is no such key. Remove it, or use one of {[*known]}.")
        values = {**known, **block}
        choices = _take(Choices, values)
        self.choices = choices
        self.teacher_kind = TEACHERS[choices.teacher_regularization]
        self.teacher = _take(self.teacher_kind.Config, values)
        self.reprompt = _take(RepromptConfig, values)
        objective = OBJECTIVES[choices.objective if choices.full_logit_distillation else "sampled-token"]
        self.objective: Objective = objective(_take(objective.Config, values))
        self.head = HEADS[choices.head]
        rule = DEMONSTRATIONS[choices.demonstration_choice]
        self.demonstrations: Demonstrations = rule(_take(rule.Config, values))
        parts = (choices, self.teacher, self.reprompt, self.objective.config, self.demonstrations.config)
        read = {field.name for part in parts for field in fields(part)}
        self.ignored = {key: value for key, value in block.items() if key not in read and value != known[key]}


def _take(part: type, values: Mapping[str, Any]) -> Any:
    """The part's own keys, made into it."""
    return part(**{field.name: values[field.name] for field in fields(part)})


def is_sdpo(config: Mapping) -> bool:
    """Whether the training configuration (the whole Hydra tree) asks for SDPO."""
    return config["actor_rollout_ref"]["actor"]["policy_loss"]["loss_mode"] == LOSS_MODE


def parse_block(config: Mapping) -> SelfDistillationConfig:
    """The block of a training configuration (the whole Hydra tree)."""
    block = config["actor_rollout_ref"]["actor"]["self_distillation"]
    return SelfDistillationConfig(**{key: value for key, value in block.items() if key != "_target_"})
