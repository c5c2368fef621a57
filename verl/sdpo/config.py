"""The block `actor_rollout_ref.actor.self_distillation`: flat in the yaml, parsed once into frozen parts.

The meaning and default of every key stand in the configurations of the parts: of the objectives (objective.py), of the
teachers (teacher.py), of the teacher's context and prompt (context.py, prompt.py), and of who learns from it
(routing.py, question_weight.py). `plugin.py` passes the defaults to Hydra, so that the yaml files never repeat them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from verl.sdpo.checks import BLOCK, require_bool, require_choice
from verl.sdpo.context import CONTEXTS, DEMONSTRATIONS, DemonstrationRule, Grading, Section
from verl.sdpo.head import HEADS
from verl.sdpo.objective import OBJECTIVES, Objective
from verl.sdpo.prompt import PromptConfig
from verl.sdpo.question_weight import QUESTION_WEIGHTS, QuestionWeights
from verl.sdpo.routing import ROUTINGS, Routing
from verl.sdpo.teacher import TEACHERS

LOSS_MODE = "sdpo"
# Names of our trainers (`trainer.v1.trainer_mode`).
TRAINER_MODE = "sdpo"
TEST_TIME_MODE = "sdpo_ttt"
STOPPABLE_MODE = "sync_stoppable"
# With SDPO and without, over verl's trainer of the name on the right.
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
    """Tokens of the longest sample, its student's and its teacher's row together. A dynamic micro-batch counts both
    (engine/micro_batches.py), so that this is the least that it must hold.
    """
    return max_prompt_length + max_reprompt_len + 2 * max_response_length


@dataclass(frozen=True)
class Choices:
    """The keys that choose a class; every other key belongs to the configuration of a class."""

    credit: str = "logit"
    """What of each position is compared (section 4.2), a name in `OBJECTIVES`. logit: the distributions of next tokens;
    logit-advantage: the same as a policy gradient, which can be clipped; token: the student's most likely token;
    sequence: one number for the whole response; sampled-token: the token that was sampled."""

    full_logit_distillation: bool = True
    """The authors' key: False is credit sampled-token."""

    routing: str = "blend"
    """Which samples learn from the teacher and which from the reward: a name in `ROUTINGS`. blend: all from both, with
    weight grpo_weight on the reward; srpo: failed samples that have a teacher from it, the others from the reward."""

    question_weight: str = "equal"
    """How much a question counts: a name in `QUESTION_WEIGHTS`. equal: all alike; uncertainty: by how unsure the
    model's success is."""

    teacher_regularization: str = "ema"
    """ema: moving average of the student; trust-region: log-space mix of the initial model and the student;
    frozen: the initial model; refresh: a copy of the student every so many steps; live: the student itself."""

    demonstration_choice: str = "first"
    """Which successes of the group are shown. first: the first ones, as the authors; random: any; shortest."""

    head: str = "chunked"
    """How the statistics of next-token distributions are computed: a name in `HEADS`. chunked: some tokens at a time;
    eager: all logits at once, to compare with."""

    def __post_init__(self):
        require_choice("head", self.head, HEADS)
        require_choice("credit", self.credit, OBJECTIVES)
        require_bool("full_logit_distillation", self.full_logit_distillation)
        require_choice("routing", self.routing, ROUTINGS)
        require_choice("question_weight", self.question_weight, QUESTION_WEIGHTS)
        require_choice("teacher_regularization", self.teacher_regularization, TEACHERS)
        require_choice("demonstration_choice", self.demonstration_choice, DEMONSTRATIONS)
        if not self.full_logit_distillation and self.credit not in ("logit", "sampled-token"):
            raise ValueError(
                f"{BLOCK}.full_logit_distillation=False is credit sampled-token, but {BLOCK}.credit={self.credit}. "
                "Set full_logit_distillation=True, or leave credit out."
            )


def defaults() -> dict[str, Any]:
    """Every key of the block with its default."""
    tables: Sequence[Mapping[str, Any]] = (
        OBJECTIVES,
        TEACHERS,
        DEMONSTRATIONS,
        CONTEXTS,
        ROUTINGS,
        QUESTION_WEIGHTS,
    )
    kinds = [kind for choices in tables for kind in choices.values()]
    parts = [Choices, *(kind.Config for kind in kinds), Grading, PromptConfig]
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
        grading: how rewards are read.
        sections, demonstrations, prompt: the teacher's context, the order of its successes, and its form.
        routing, question_weights: who learns from the teacher, and how much each question counts.
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
        self.grading = _take(Grading, values)
        self.prompt = _take(PromptConfig, values)
        self.head = HEADS[choices.head]
        self.teacher_kind = TEACHERS[choices.teacher_regularization]
        self.teacher = _take(self.teacher_kind.Config, values)
        objective = OBJECTIVES[choices.credit if choices.full_logit_distillation else "sampled-token"]
        self.objective: Objective = _make(objective, values)
        self.demonstrations: DemonstrationRule = _make(DEMONSTRATIONS[choices.demonstration_choice], values)
        self.sections: Sequence[Section] = [
            kind(_take(kind.Config, values), self.demonstrations) for kind in CONTEXTS.values()
        ]
        self.prompt.check_places(self.sections)
        self.routing: Routing = _make(ROUTINGS[choices.routing], values)
        self.question_weights: QuestionWeights = _make(QUESTION_WEIGHTS[choices.question_weight], values)
        self._check_denominator()
        made = (self.objective, self.demonstrations, *self.sections, self.routing, self.question_weights)
        parts = (choices, self.grading, self.prompt, self.teacher, *(part.config for part in made))
        read = {field.name for part in parts for field in fields(part)}
        self.ignored = {key: value for key, value in block.items() if key not in read and value != known[key]}

    def _check_denominator(self) -> None:
        weighs = self.routing.reads_rewards or self.choices.question_weight != "equal"
        if weighs and self.objective.config.denominator == "targets":
            raise ValueError(
                f"{BLOCK}.denominator=targets with a share of rewards (grpo_weight, routing) or with question_weight="
                f"{self.choices.question_weight}: the fewer samples have a teacher, the more the teacher would weigh "
                "beside the rest. Set denominator=all, as sdpo.yaml does."
            )


def _make(kind: type, values: Mapping[str, Any]) -> Any:
    """An instance of one of the classes that the block chooses, with its configuration."""
    return kind(_take(kind.Config, values))  # type: ignore[attr-defined]


def _take(part: type, values: Mapping[str, Any]) -> Any:
    """The part's own keys, made into it."""
    return part(**{field.name: values[field.name] for field in fields(part)})


def is_sdpo(config: Mapping) -> bool:
    """Whether the training configuration (the whole Hydra tree) asks for SDPO."""
    return config["actor_rollout_ref"]["actor"]["policy_loss"]["loss_mode"] == LOSS_MODE


def is_lora(config: Mapping) -> bool:
    """Whether it trains an adapter over frozen base weights."""
    return config["actor_rollout_ref"]["model"].get("lora_rank", 0) > 0


def parse_block(config: Mapping) -> SelfDistillationConfig:
    """The block of a training configuration (the whole Hydra tree)."""
    block = config["actor_rollout_ref"]["actor"]["self_distillation"]
    return SelfDistillationConfig(**{key: value for key, value in block.items() if key != "_target_"})
