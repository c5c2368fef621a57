"""Settings of SDPO: the one source of truth for their names, meaning and defaults.

The dataclass below is what `actor_rollout_ref.actor.self_distillation` holds; `plugin.py` hands the same defaults to
Hydra, so that the yaml files never repeat them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

BLOCK = "actor_rollout_ref.actor.self_distillation"
LOSS_MODE = "sdpo"
TRAINER_MODE = "sdpo"

TEACHERS = ("ema", "trust-region", "frozen", "live")
UPDATE_INTERVALS = ("step", "optimizer")
TRUNCATIONS = ("left", "right", "error")
DEMONSTRATION_CHOICES = ("first", "random")
TEMPLATE_PLACEHOLDERS = {
    "reprompt_template": ("prompt", "solution", "feedback"),
    "solution_template": ("successful_previous_attempt",),
    "feedback_template": ("feedback_raw",),
}


@dataclass(frozen=True)
class SelfDistillationConfig:
    """How the model teaches itself.

    Raises:
        ValueError: at construction, naming the key, the value and what to set instead.
    """

    full_logit_distillation: bool = True
    """Compare next-token distributions (top-k or full vocabulary); False compares only the sampled token."""

    alpha: float = 0.5
    """0.0: forward KL(teacher || student); 1.0: reverse KL(student || teacher); between: generalised JSD."""

    success_reward_threshold: float = 1.0
    """A rollout whose summed reward reaches this is a success and may serve as a demonstration."""

    teacher_regularization: str = "ema"
    """ema: moving average of the student; trust-region: log-space mix of the initial model and the student;
    frozen: the initial model; live: the student itself."""

    teacher_update_rate: float = 0.05
    """Weight of the student in each EMA update, and in the trust-region mix. Ignored by frozen and live."""

    teacher_update_interval: str = "step"
    """When the EMA moves. step: once per training step, as the authors; optimizer: after every optimizer step."""

    distillation_topk: int | None = 100
    """Tokens of the student's distribution that are compared; null compares the full vocabulary."""

    distillation_add_tail: bool = True
    """Lump the probability outside the top-k into one extra bucket; False renormalises over the top-k."""

    is_clip: float | None = 2.0
    """Upper bound of the importance ratio pi / pi_old that weighs each token; null: no weight."""

    denominator: str = "targets"
    """What the loss is divided by. targets: the tokens or sequences that have a target; all: those without one too."""

    max_reprompt_len: int = 10240
    """Longest teacher prompt, in tokens, chat template included."""

    reprompt_truncation: str = "right"
    """Which end of an over-long demonstration or feedback is cut (left, right), or error."""

    dont_reprompt_on_self_success: bool = True
    """Never show a sample its own successful attempt."""

    remove_thinking_from_demonstration: bool = True
    """Strip `<think>...</think>` from demonstrations."""

    demonstration_choice: str = "first"
    """first: the group's first success, as the authors; random: any success, drawn with demonstration_seed."""

    demonstration_seed: int = 0
    """Seed of the random demonstration choice; the training step is mixed in."""

    reprompt_template: str = "{prompt}{solution}{feedback}\n\nCorrectly solve the original question."
    """The teacher's user message. {solution} and {feedback} are the two sections below, or empty."""

    solution_template: str = "\nCorrect solution:\n\n{successful_previous_attempt}"
    """The section that shows a demonstration."""

    feedback_template: str = "\nThe following is feedback from your unsuccessful earlier attempt:\n\n{feedback_raw}"
    """The section that shows the environment's feedback on this very sample."""

    include_environment_feedback: bool = True
    """Show the environment's feedback to the teacher."""

    environment_feedback_only_without_solution: bool = True
    """Show feedback only to samples for which there is no demonstration."""

    max_grader_error_rate: float = 0.01
    """Training stops when more than this share of a step's samples could not be graded (grader_error)."""

    def __post_init__(self):
        _require_choice("teacher_regularization", self.teacher_regularization, TEACHERS)
        _require_choice("teacher_update_interval", self.teacher_update_interval, UPDATE_INTERVALS)
        _require_choice("reprompt_truncation", self.reprompt_truncation, TRUNCATIONS)
        _require_choice("demonstration_choice", self.demonstration_choice, DEMONSTRATION_CHOICES)
        for name in ("alpha", "teacher_update_rate", "max_grader_error_rate"):
            _require(name, getattr(self, name), lambda v: _is_number(v) and 0 <= v <= 1, "a number in [0, 1]")
        for field in fields(self):
            if field.type is bool:
                _require(field.name, getattr(self, field.name), lambda v: isinstance(v, bool), "true or false")
        _require("demonstration_seed", self.demonstration_seed, lambda v: type(v) is int, "a whole number")
        _require("success_reward_threshold", self.success_reward_threshold, _is_number, "a number")
        _require("is_clip", self.is_clip, lambda v: v is None or (_is_number(v) and v > 0), "a number > 0, or null")
        _require("max_reprompt_len", self.max_reprompt_len, _is_positive_int, "a whole number of tokens >= 1")
        _require(
            "distillation_topk",
            self.distillation_topk,
            lambda v: v is None or _is_positive_int(v),
            "a whole number >= 1, or null for the full vocabulary",
        )
        for name, placeholders in TEMPLATE_PLACEHOLDERS.items():
            for placeholder in placeholders:
                needle = "{" + placeholder + "}"
                _require(
                    name,
                    getattr(self, name),
                    lambda v, n=needle: isinstance(v, str) and n in v,
                    f"a text that contains {needle}",
                )
        if not self.full_logit_distillation and self.alpha != 1.0:
            raise ValueError(
                f"{BLOCK}.alpha={self.alpha} together with {BLOCK}.full_logit_distillation=False: one sampled token "
                "can only estimate the reverse KL. Set alpha=1.0, or full_logit_distillation=True."
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_positive_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _require(name: str, value: Any, is_valid, expected: str) -> None:
    if not is_valid(value):
        raise ValueError(f"{BLOCK}.{name}={value!r}: expected {expected}.")


def _require_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    _require(name, value, lambda v: v in choices, "one of " + ", ".join(choices))


def is_sdpo(config: Mapping) -> bool:
    """Whether the training configuration (the whole Hydra tree) asks for SDPO."""
    return config["actor_rollout_ref"]["actor"]["policy_loss"]["loss_mode"] == LOSS_MODE
