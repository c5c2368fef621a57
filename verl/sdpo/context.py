"""Context of a teacher: what it may read beside the student's question, one class per section of `CONTEXTS`.

A teacher is a model that has read more than the student: a sibling's success, the environment's feedback. `Groups`
holds the attempts of a training step by question, a `Section` chooses texts among them, and `prompt.py` writes these
texts into the teacher's prompt.

Pure Python: no tensors, no tokenizer, no verl. A chat is a list of `{"role", "content"}` messages.
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

from verl.sdpo.checks import BLOCK, is_number, is_positive_int, require, require_bool, require_fraction
from verl.sdpo.reasoning import remove_thinking

Message = dict[str, Any]


@dataclass(frozen=True)
class Rollout:
    """One finished attempt of the student."""

    uid: str
    """Name of the group: shared by all attempts at one question."""
    attempt: int
    """Number within the group; the "first" success has the lowest."""
    messages: Sequence[Message]
    """The chat that the student answered."""
    response: str
    score: float
    """Summed reward, before any KL penalty."""
    reward: Mapping[str, Any] = field(default_factory=dict)
    """Everything that the reward function returned, `feedback` and `grader_error` among it."""
    extra_info: Mapping[str, Any] = field(default_factory=dict)
    """The sample's extra columns: `extra_info` of the data."""
    is_padding: bool = False
    """True for a row that only fills the batch up."""

    @property
    def grader_error(self) -> bool:
        """True if the reward function could not grade the attempt."""
        return bool(self.reward.get("grader_error", False))

    @property
    def graded(self) -> bool:
        """False for an attempt that is neither distilled nor shown to anyone: its grader failed, or it is padding."""
        return not (self.is_padding or self.grader_error)

    @property
    def feedback(self) -> str | None:
        """The environment's words about this attempt, if it has any."""
        feedback = self.reward.get("feedback")
        return feedback if isinstance(feedback, str) and feedback.strip() else None

    @cached_property
    def answer(self) -> str:
        """The response without its thinking."""
        return remove_thinking(self.response)


@dataclass(frozen=True)
class Grading:
    """Reading of rewards: the only place that says what a success is."""

    success_reward_threshold: float = 1.0
    """A rollout whose summed reward reaches this is a success and may serve as a demonstration."""

    max_grader_error_rate: float = 0.01
    """Training stops when more than this share of a step's samples could not be graded (grader_error)."""

    def __post_init__(self):
        threshold = self.success_reward_threshold
        require("success_reward_threshold", threshold, lambda v: is_number(v) and v == v, "a number")
        require_fraction("max_grader_error_rate", self.max_grader_error_rate)

    def is_success(self, score: float) -> bool:
        """Return whether an attempt with this score solved its question."""
        return score >= self.success_reward_threshold


@dataclass(frozen=True)
class Group:
    """The graded attempts at one question, in the order of their numbers."""

    rollouts: Sequence[Rollout]
    grading: Grading

    def is_success(self, rollout: Rollout) -> bool:
        """Return whether an attempt solved the question."""
        return self.grading.is_success(rollout.score)

    @cached_property
    def successes(self) -> list[Rollout]:
        """The attempts that solved the question."""
        return [rollout for rollout in self.rollouts if self.is_success(rollout)]

    @cached_property
    def failures(self) -> list[Rollout]:
        """The attempts that did not solve the question."""
        return [rollout for rollout in self.rollouts if not self.is_success(rollout)]

    @property
    def success_rate(self) -> float:
        """Share of the attempts that solved the question."""
        return len(self.successes) / len(self.rollouts)


def by_question(rollouts: Sequence[Rollout]) -> dict[str, list[int]]:
    """Return the places of each group's rollouts by uid, sorted by attempt."""
    places: dict[str, list[int]] = {}
    for place in sorted(range(len(rollouts)), key=lambda place: rollouts[place].attempt):
        places.setdefault(rollouts[place].uid, []).append(place)
    return places


class Groups(Mapping[str, Group]):
    """The groups of a training step by uid; a group of which nothing was graded is left out."""

    def __init__(self, rollouts: Sequence[Rollout], grading: Grading, step: int):
        self.grading, self.step = grading, step
        graded = [rollout for rollout in rollouts if rollout.graded]
        self._groups = {
            uid: Group([graded[place] for place in places], grading) for uid, places in by_question(graded).items()
        }

    def __getitem__(self, uid: str) -> Group:
        return self._groups[uid]

    def __iter__(self) -> Iterator[str]:
        return iter(self._groups)

    def __len__(self) -> int:
        return len(self._groups)


class Attempt(NamedTuple):
    """An attempt that may be shown to others."""

    number: int
    """Number within its group."""
    text: str
    """The response, without its thinking if so configured."""


class DemonstrationRule:
    """Order in which the successes of a group are shown. A subclass is one rule."""

    @dataclass(frozen=True)
    class Config:
        """Keys of a rule that needs none."""

    def __init__(self, config: Any):
        self.config = config

    def rank(self, candidates: Sequence[Attempt], rollout: Rollout, step: int) -> Sequence[Attempt]:
        """Return the candidates, which come in the order of their attempts, with the one to show first in front.

        The result may depend on the rollout and the training step, but not on the order of the batch, which is
        arbitrary in verl.
        """
        raise NotImplementedError


class FirstSuccess(DemonstrationRule):
    """The first success, as in the authors' code: a group shares it, and its owner is shown the next one."""

    def rank(self, candidates: Sequence[Attempt], rollout: Rollout, step: int) -> Sequence[Attempt]:
        return candidates


class RandomSuccess(DemonstrationRule):
    """A random success, drawn anew in every step."""

    @dataclass(frozen=True)
    class Config(DemonstrationRule.Config):
        demonstration_seed: int = 0
        """Seed of the random demonstration choice; the training step is mixed in."""

        def __post_init__(self):
            require("demonstration_seed", self.demonstration_seed, lambda v: type(v) is int, "a whole number")

    def rank(self, candidates: Sequence[Attempt], rollout: Rollout, step: int) -> Sequence[Attempt]:
        seed = f"{self.config.demonstration_seed}/{step}/{rollout.messages}/{rollout.attempt}"
        return random.Random(seed).sample(candidates, len(candidates))


class ShortestSuccess(DemonstrationRule):
    """The success with the fewest characters, the earliest of equals."""

    def rank(self, candidates: Sequence[Attempt], rollout: Rollout, step: int) -> Sequence[Attempt]:
        return sorted(candidates, key=lambda attempt: len(attempt.text))


DEMONSTRATIONS: Mapping[str, type[DemonstrationRule]] = {
    "first": FirstSuccess,
    "random": RandomSuccess,
    "shortest": ShortestSuccess,
}


class Section:
    """One part of a teacher's context. A subclass has a template in its `Config` and chooses the texts that fill it."""

    place: ClassVar[str]
    """Placeholder in `reprompt_template` where the section stands, without its braces; sections may share one."""
    template: ClassVar[str]
    """Key of the section's template, a field of its `Config`."""
    placeholder: ClassVar[str]
    """Placeholder in that template for a text, without its braces."""
    teaches: ClassVar[bool]
    """True if this section alone is a context worth distilling; the others are shown beside one that teaches."""

    @dataclass(frozen=True)
    class Config:
        """Flat keys of the block that belong to the section."""

    def __init__(self, config: Any, rule: DemonstrationRule):
        """Check the template.

        Args:
            config: an instance of `Config`.
            rule: order of the attempts for a section that shows only some of them.
        """
        self.config, self.rule = config, rule
        needle = "{" + self.placeholder + "}"
        require(
            self.template,
            getattr(config, self.template),
            lambda v: isinstance(v, str) and needle in v,
            f"a text that contains {needle}",
        )

    @property
    def is_on(self) -> bool:
        """False if the configuration switches the section off."""
        return True

    def texts(self, rollout: Rollout, groups: Groups, shown: Sequence["Shown"]) -> list[str]:
        """Return the texts to show to the teacher of a graded rollout, each rendered with the template.

        Args:
            groups: all groups of the step; `groups[rollout.uid]` is the rollout's own.
            shown: texts of the sections before. Those that teach come first, else the order is that of `CONTEXTS`.
        """
        raise NotImplementedError


class Shown(NamedTuple):
    """A text that a teacher is shown, and its section."""

    section: Section
    text: str


@dataclass(frozen=True)
class AttemptText:
    """Key of all sections that show attempts."""

    remove_thinking_from_demonstration: bool = True
    """Strip `<think>...</think>` from demonstrations."""

    def __post_init__(self):
        require_bool("remove_thinking_from_demonstration", self.remove_thinking_from_demonstration)

    def text(self, rollout: Rollout) -> str:
        """Return a response as a teacher reads it, "" if that would be blank."""
        text = rollout.answer if self.remove_thinking_from_demonstration else rollout.response
        return text if text.strip() else ""

    def attempts(self, rollouts: Sequence[Rollout]) -> list[Attempt]:
        """Return the attempts that have a text to show."""
        return [Attempt(rollout.attempt, text) for rollout in rollouts if (text := self.text(rollout))]


@dataclass(frozen=True)
class OwnAttemptText(AttemptText):
    """Keys of the sections that may show a sample its own attempt."""

    dont_reprompt_on_self_success: bool = True
    """Never show a sample its own successful attempt."""

    def __post_init__(self):
        super().__post_init__()
        require_bool("dont_reprompt_on_self_success", self.dont_reprompt_on_self_success)


class OwnAttempt(Section):
    """The sample's own attempt, unless it is shown as a demonstration already."""

    place, template, placeholder, teaches = "attempt", "attempt_template", "own_attempt", False

    @dataclass(frozen=True)
    class Config(OwnAttemptText):
        include_own_attempt: bool = False
        """Show the sample's own attempt, beside a demonstration or feedback (Table 6, last row). A success only where
        `dont_reprompt_on_self_success` is false."""

        attempt_template: str = "\nYour earlier attempt:\n\n{own_attempt}"
        """The section that shows the sample's own attempt."""

        def __post_init__(self):
            super().__post_init__()
            require_bool("include_own_attempt", self.include_own_attempt)

    @property
    def is_on(self) -> bool:
        return self.config.include_own_attempt

    def texts(self, rollout: Rollout, groups: Groups, shown: Sequence[Shown]) -> list[str]:
        if self.config.dont_reprompt_on_self_success and groups[rollout.uid].is_success(rollout):
            return []
        text = self.config.text(rollout)
        return [text] if text and text not in texts_of(shown, Demonstration) else []


class Demonstration(Section):
    """Successes of the group."""

    place, template, placeholder, teaches = "solution", "solution_template", "successful_previous_attempt", True

    @dataclass(frozen=True)
    class Config(OwnAttemptText):
        self_success_as_solution: bool = False
        """A successful sample is shown its own attempt and no other (Table 2 of the paper)."""

        num_demonstrations: int = 1
        """Number of successes that are shown at most, in the order of `demonstration_choice`."""

        solution_template: str = "\nCorrect solution:\n\n{successful_previous_attempt}"
        """The section that shows a demonstration, once for each."""

        def __post_init__(self):
            super().__post_init__()
            require_bool("self_success_as_solution", self.self_success_as_solution)
            require("num_demonstrations", self.num_demonstrations, is_positive_int, "a whole number >= 1")
            if self.self_success_as_solution and self.dont_reprompt_on_self_success:
                raise ValueError(
                    f"{BLOCK}.self_success_as_solution=True shows a success its own attempt, which "
                    f"{BLOCK}.dont_reprompt_on_self_success=True forbids. Set one of them to False."
                )

    def texts(self, rollout: Rollout, groups: Groups, shown: Sequence[Shown]) -> list[str]:
        candidates = self.config.attempts(groups[rollout.uid].successes)
        own = [success for success in candidates if success.number == rollout.attempt]
        if own and self.config.self_success_as_solution:
            candidates = own
        elif self.config.dont_reprompt_on_self_success:
            candidates = [success for success in candidates if success not in own]
        ranked = self.rule.rank(candidates, rollout, groups.step) if candidates else []
        return [success.text for success in ranked[: self.config.num_demonstrations]]


class FailedAttempts(Section):
    """Failed attempts of the siblings."""

    place, template, placeholder, teaches = "failed_attempts", "failed_attempt_template", "failed_attempt", False

    @dataclass(frozen=True)
    class Config(AttemptText):
        num_failed_attempts: int = 0
        """Number of failed attempts of others in the group that are shown at most, the first ones, beside a
        demonstration or feedback (MOPD, arXiv 2605.12652: two successes and one failure)."""

        failed_attempt_template: str = "\nIncorrect solution:\n\n{failed_attempt}"
        """The section that shows a failed attempt of another, once for each."""

        def __post_init__(self):
            super().__post_init__()
            number = self.num_failed_attempts
            require("num_failed_attempts", number, lambda v: v == 0 or is_positive_int(v), "a whole number >= 0")

    @property
    def is_on(self) -> bool:
        return self.config.num_failed_attempts > 0

    def texts(self, rollout: Rollout, groups: Groups, shown: Sequence[Shown]) -> list[str]:
        attempts = self.config.attempts(groups[rollout.uid].failures)
        others = [attempt.text for attempt in attempts if attempt.number != rollout.attempt]
        return others[: self.config.num_failed_attempts]


class Feedback(Section):
    """The environment's words about this very attempt."""

    place, template, placeholder, teaches = "feedback", "feedback_template", "feedback_raw", True

    @dataclass(frozen=True)
    class Config:
        feedback_template: str = "\nThe following is feedback from your unsuccessful earlier attempt:\n\n{feedback_raw}"
        """The section that shows the environment's feedback on this very sample."""

        include_environment_feedback: bool = True
        """Show the environment's feedback to the teacher."""

        environment_feedback_only_without_solution: bool = True
        """Show feedback only to samples for which there is no demonstration."""

        def __post_init__(self):
            for name in ("include_environment_feedback", "environment_feedback_only_without_solution"):
                require_bool(name, getattr(self, name))

    @property
    def is_on(self) -> bool:
        return self.config.include_environment_feedback

    def texts(self, rollout: Rollout, groups: Groups, shown: Sequence[Shown]) -> list[str]:
        if rollout.feedback is None:
            return []
        replaced = self.config.environment_feedback_only_without_solution and texts_of(shown, Demonstration)
        return [] if replaced else [rollout.feedback]


# In the order of the default template.
CONTEXTS: Mapping[str, type[Section]] = {
    "own_attempt": OwnAttempt,
    "demonstration": Demonstration,
    "failed_attempts": FailedAttempts,
    "feedback": Feedback,
}


def texts_of(shown: Sequence[Shown], kind: type[Section]) -> list[str]:
    """Return the texts of one kind of section."""
    return [text for section, text in shown if isinstance(section, kind)]


def teacher_context(
    rollout: Rollout, groups: Groups, sections: Sequence[Section], markup: Sequence[str] = ()
) -> list[Shown]:
    """Return what the teacher of a rollout is shown; nothing if no section that teaches has a text.

    Args:
        markup: tokens of the chat markup, which no text may spell.
    """
    shown: list[Shown] = []
    if rollout.graded:
        for section in sorted(sections, key=lambda section: not section.teaches):
            if section.is_on:
                shown += [Shown(section, text) for text in section.texts(rollout, groups, tuple(shown))]
    if not any(section.teaches for section, _ in shown):
        return []
    return [Shown(section, break_up(text, markup)) for section, text in shown]


def break_up(text: str, markup: Sequence[str]) -> str:
    """Put a space behind the first character of every token of the chat markup that a text spells.

    The tokenizer would read the spelled token as the real one, and a demonstration could close the user's turn.
    """
    if not markup:
        return text
    longest_first = sorted(markup, key=len, reverse=True)
    pattern = "|".join(re.escape(token) for token in longest_first)
    return re.sub(pattern, lambda match: f"{match.group()[0]} {match.group()[1:]}", text)
