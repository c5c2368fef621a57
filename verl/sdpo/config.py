"""The block `actor_rollout_ref.actor.self_distillation`: flat in the yaml, parsed once into frozen configurations.

Each key is documented, with its default, in the configuration class that reads it. `plugin.py` passes the defaults to
Hydra, so that the yaml files never repeat them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from verl.sdpo.checks import BLOCK, require_bool, require_choice
from verl.sdpo.context import CONTEXTS, DEMONSTRATIONS, DemonstrationRule, Grading, Section
from verl.sdpo.head import HEADS, Head
from verl.sdpo.objective import OBJECTIVES, Objective
from verl.sdpo.prompt import PromptConfig
from verl.sdpo.question_weight import QUESTION_WEIGHTS, QuestionWeights
from verl.sdpo.routing import ROUTINGS, Routing
from verl.sdpo.teacher import TEACHERS, Teacher

# The key that chooses -> the classes to choose from. A further axis of choice is a row here and a field of `Choices`.
CHOICES: Mapping[str, Mapping[str, type]] = {
    "credit": OBJECTIVES,
    "routing": ROUTINGS,
    "question_weight": QUESTION_WEIGHTS,
    "teacher_regularization": TEACHERS,
    "demonstration_choice": DEMONSTRATIONS,
    "head": HEADS,
}

LOSS_MODE = "sdpo"
# Values of `trainer.v1.trainer_mode` that this plugin adds.
TRAINER_MODE = "sdpo"
TEST_TIME_MODE = "sdpo_ttt"
STOPPABLE_MODE = "sync_stoppable"
# Each mode -> verl's own trainer below it; with SDPO, and without.
TRAINER_MODES = {
    TRAINER_MODE: "sync",
    TEST_TIME_MODE: "sync",
    "sdpo_colocate_async": "colocate_async",
    "sdpo_separate_async": "separate_async",
}
STOPPABLE_MODES = {
    STOPPABLE_MODE: "sync",
    "colocate_async_stoppable": "colocate_async",
    "separate_async_stoppable": "separate_async",
}
VERLS_TRAINERS = TRAINER_MODES | STOPPABLE_MODES


def longest_sample(max_prompt_length: int, max_response_length: int, max_reprompt_len: int) -> int:
    """Return the tokens of the longest sample: its student's and its teacher's row together.

    A dynamic micro-batch counts both (engine/micro_batches.py), so it must hold at least this many.
    """
    return max_prompt_length + max_reprompt_len + 2 * max_response_length


@dataclass(frozen=True)
class Choices:
    """The keys that choose a class of `CHOICES`; every other key belongs to the configuration of a class."""

    credit: str = "logit"
    """Level at which credit is given (section 4.2). logit: a divergence of the next-token distributions;
    logit-advantage: the same as a policy gradient, which can be clipped; token: the student's most likely token;
    sequence: one advantage for the whole response; sampled-token: the token that was sampled."""

    full_logit_distillation: bool = True
    """The authors' key: False is credit sampled-token."""

    routing: str = "blend"
    """Rule for which samples learn from the teacher and which from the reward. blend: all from both, with weight
    grpo_weight on the reward; srpo: failed samples that have a teacher context from the teacher, all others from the
    reward."""

    question_weight: str = "equal"
    """Weight of each question in the loss. equal: all alike; uncertainty: by the standard deviation of its success."""

    teacher_regularization: str = "ema"
    """ema: moving average of the student; trust-region: log-space mix of the initial model and the student;
    frozen: the initial model; refresh: a copy of the student every so many steps; live: the student itself."""

    demonstration_choice: str = "first"
    """Choice among the successes of the group. first: the first ones, as the authors; random: any; shortest."""

    head: str = "chunked"
    """Computation of the statistics of next-token distributions. chunked: some tokens at a time; eager: all logits at
    once, as a reference."""

    def __post_init__(self):
        for key, classes in CHOICES.items():
            require_choice(key, getattr(self, key), classes)
        require_bool("full_logit_distillation", self.full_logit_distillation)
        if not self.full_logit_distillation and self.credit not in ("logit", "sampled-token"):
            raise ValueError(
                f"{BLOCK}.full_logit_distillation=False is credit sampled-token, but {BLOCK}.credit={self.credit}. "
                "Set full_logit_distillation=True, or leave credit out."
            )


def config_classes() -> list[type]:
    """Return every configuration class whose fields are keys of the block."""
    tables = (*CHOICES.values(), CONTEXTS)
    chosen = [cls.Config for classes in tables for cls in classes.values() if hasattr(cls, "Config")]
    return [Choices, *chosen, Grading, PromptConfig]


def defaults() -> dict[str, Any]:
    """Return every key of the block with its default."""
    known: dict[str, Any] = {}
    for cls in config_classes():
        for field in fields(cls):
            if known.setdefault(field.name, field.default) != field.default:
                raise ValueError(
                    f"{cls.__qualname__}.{field.name}={field.default!r}: another class has the default "
                    f"{known[field.name]!r} for this key. Take the same, or another name."
                )
    return known


class SelfDistillationConfig:
    """The parsed block: `SelfDistillationConfig(**keys_of_the_block)`, the keys of the authors or of SDPO.

    Attributes:
        choices: the keys that chose the classes.
        objective, demonstrations, routing, question_weights: instances of the chosen classes.
        teacher_class, teacher_config: the worker builds the teacher from both, once the models exist.
        head_class: bound to the tokens of each micro-batch.
        grading: how rewards are read.
        sections, prompt: the teacher's context and its form.
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
        choices = self.choices = _take(Choices, values)
        chosen: dict[str, Any] = {key: classes[getattr(choices, key)] for key, classes in CHOICES.items()}
        if not choices.full_logit_distillation:
            chosen["credit"] = OBJECTIVES["sampled-token"]
        configs = {key: _take(cls.Config, values) for key, cls in chosen.items() if hasattr(cls, "Config")}

        def made(key: str) -> Any:
            return chosen[key](configs[key])

        self.objective: Objective = made("credit")
        self.routing: Routing = made("routing")
        self.question_weights: QuestionWeights = made("question_weight")
        self.demonstrations: DemonstrationRule = made("demonstration_choice")
        self.teacher_class: type[Teacher] = chosen["teacher_regularization"]
        self.teacher_config = configs["teacher_regularization"]
        self.head_class: type[Head] = chosen["head"]
        self.grading = _take(Grading, values)
        self.prompt = _take(PromptConfig, values)
        self.sections: Sequence[Section] = [
            section(_take(section.Config, values), self.demonstrations) for section in CONTEXTS.values()
        ]
        self.prompt.check_places(self.sections)
        self._check_denominator()
        taken = (choices, self.grading, self.prompt, *configs.values(), *(section.config for section in self.sections))
        read = {field.name for config in taken for field in fields(config)}
        self.ignored = {key: value for key, value in block.items() if key not in read and value != known[key]}

    def _check_denominator(self) -> None:
        weighs = self.routing.reads_rewards or self.choices.question_weight != "equal"
        if weighs and self.objective.config.denominator == "targets":
            raise ValueError(
                f"{BLOCK}.denominator=targets with a share of rewards (grpo_weight, routing) or with question_weight="
                f"{self.choices.question_weight}: the fewer samples have a teacher, the more the teacher would weigh "
                "beside the rest. Set denominator=all, as sdpo.yaml does."
            )


def _take(config_class: type, values: Mapping[str, Any]) -> Any:
    """Build a configuration from the values of its own keys."""
    return config_class(**{field.name: values[field.name] for field in fields(config_class)})


def is_sdpo(config: Mapping) -> bool:
    """Return whether the training configuration (the whole Hydra tree) asks for SDPO."""
    return config["actor_rollout_ref"]["actor"]["policy_loss"]["loss_mode"] == LOSS_MODE


def is_lora(config: Mapping) -> bool:
    """Return whether the configuration trains an adapter over frozen base weights."""
    return config["actor_rollout_ref"]["model"].get("lora_rank", 0) > 0


def parse_block(config: Mapping) -> SelfDistillationConfig:
    """Parse the block of a training configuration (the whole Hydra tree)."""
    block = config["actor_rollout_ref"]["actor"]["self_distillation"]
    return SelfDistillationConfig(**{key: value for key, value in block.items() if key != "_target_"})
