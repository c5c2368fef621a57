"""Builds what the self-teacher reads: the student's own question plus a demonstration or the environment's feedback.

Pure Python: no tensors, no tokenizer class, no verl. A chat is a list of `{"role", "content"}` messages.
"""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from verl.sdpo.checks import BLOCK, is_number, is_positive_int, require, require_bool, require_choice, require_fraction
from verl.sdpo.reasoning import remove_thinking

Message = dict[str, Any]


TRUNCATIONS = ("left", "right", "error")


class SectionKind(NamedTuple):
    """A part of the teacher's message beside the question."""

    template: str
    """Key of its template."""
    placeholder: str
    """What the template fills in."""
    place: str
    """Where it stands in `reprompt_template`."""
    teaches: bool
    """It alone tells the teacher what the student did not know."""


# In the order in which the default template shows them.
SECTIONS: Mapping[str, SectionKind] = {
    "attempt": SectionKind("attempt_template", "own_attempt", "attempt", teaches=False),
    "solution": SectionKind("solution_template", "successful_previous_attempt", "solution", teaches=True),
    "failed": SectionKind("failed_attempt_template", "failed_attempt", "failed_attempts", teaches=False),
    "feedback": SectionKind("feedback_template", "feedback_raw", "feedback", teaches=True),
}


@dataclass(frozen=True)
class RepromptConfig:
    """What the teacher reads, whatever the demonstration rule."""

    success_reward_threshold: float = 1.0
    """A rollout whose summed reward reaches this is a success and may serve as a demonstration."""

    max_reprompt_len: int = 10240
    """Longest teacher prompt, in tokens, chat template included."""

    reprompt_truncation: str = "right"
    """Which end of an over-long demonstration or feedback is cut (left, right), or error."""

    dont_reprompt_on_self_success: bool = True
    """Never show a sample its own successful attempt."""

    self_success_as_solution: bool = False
    """A successful sample is shown its own attempt and no other (Table 2 of the paper)."""

    remove_thinking_from_demonstration: bool = True
    """Strip `<think>...</think>` from demonstrations."""

    num_demonstrations: int = 1
    """At most so many successes are shown, in the order of `demonstration_choice`."""

    num_failed_attempts: int = 0
    """At most so many failed attempts of others in the group are shown, the first ones, beside a demonstration or
    feedback (MOPD, arXiv 2605.12652: two successes and one failure)."""

    include_own_attempt: bool = False
    """Show the sample's own attempt, beside a demonstration or feedback (Table 6, last row). A success only where
    `dont_reprompt_on_self_success` is false."""

    reprompt_template: str = (
        "{prompt}{attempt}{solution}{failed_attempts}{feedback}\n\nCorrectly solve the original question."
    )
    """The teacher's user message. All but {prompt} are the sections below, or empty."""

    attempt_template: str = "\nYour earlier attempt:\n\n{own_attempt}"
    """The section that shows the sample's own attempt."""

    solution_template: str = "\nCorrect solution:\n\n{successful_previous_attempt}"
    """The section that shows a demonstration, once for each."""

    failed_attempt_template: str = "\nIncorrect solution:\n\n{failed_attempt}"
    """The section that shows a failed attempt of another, once for each."""

    feedback_template: str = "\nThe following is feedback from your unsuccessful earlier attempt:\n\n{feedback_raw}"
    """The section that shows the environment's feedback on this very sample."""

    include_environment_feedback: bool = True
    """Show the environment's feedback to the teacher."""

    environment_feedback_only_without_solution: bool = True
    """Show feedback only to samples for which there is no demonstration."""

    max_grader_error_rate: float = 0.01
    """Training stops when more than this share of a step's samples could not be graded (grader_error)."""

    def __post_init__(self):
        require_choice("reprompt_truncation", self.reprompt_truncation, TRUNCATIONS)
        require_fraction("max_grader_error_rate", self.max_grader_error_rate)
        for name in (
            "dont_reprompt_on_self_success",
            "self_success_as_solution",
            "remove_thinking_from_demonstration",
            "include_own_attempt",
            "include_environment_feedback",
            "environment_feedback_only_without_solution",
        ):
            require_bool(name, getattr(self, name))
        if self.self_success_as_solution and self.dont_reprompt_on_self_success:
            raise ValueError(
                f"{BLOCK}.self_success_as_solution=True shows a success its own attempt, which "
                f"{BLOCK}.dont_reprompt_on_self_success=True forbids. Set one of them to False."
            )
        threshold = self.success_reward_threshold
        require("success_reward_threshold", threshold, lambda v: is_number(v) and v == v, "a number")
        require("max_reprompt_len", self.max_reprompt_len, is_positive_int, "a whole number of tokens >= 1")
        require("num_demonstrations", self.num_demonstrations, is_positive_int, "a whole number >= 1")
        require(
            "num_failed_attempts",
            self.num_failed_attempts,
            lambda v: v == 0 or is_positive_int(v),
            "a whole number >= 0",
        )
        off = {"attempt": not self.include_own_attempt, "failed": not self.num_failed_attempts}
        places = ["prompt", *(section.place for kind, section in SECTIONS.items() if not off.get(kind))]
        needed = {"reprompt_template": places}
        needed |= {section.template: [section.placeholder] for section in SECTIONS.values()}
        for name, placeholders in needed.items():
            for placeholder in placeholders:
                require(
                    name,
                    getattr(self, name),
                    lambda v, needle="{" + placeholder + "}": isinstance(v, str) and needle in v,
                    "a text that contains {" + placeholder + "}",
                )


@dataclass(frozen=True)
class Rollout:
    """One finished attempt of the student."""

    uid: str
    """Shared by the attempts at one question: the group."""
    attempt: int
    """Number within the group; the "first" success has the lowest. Agent loops may make several rows of one attempt."""
    messages: Sequence[Message]
    """The chat that the student answered."""
    response: str
    score: float
    """Summed reward, before any KL penalty."""
    feedback: str | None = None
    """What the environment said about this attempt."""
    graded: bool = True
    """False: the grader failed, or the row is padding. It is neither distilled nor shown to anyone."""


class Section(NamedTuple):
    """Something that the teacher reads beside the question."""

    kind: str
    """A name in `SECTIONS`."""
    text: str


@dataclass(frozen=True)
class TeacherPrompt:
    """What the teacher reads before it scores one rollout."""

    messages: list[Message]
    sections: tuple[Section, ...] = ()
    truncated: bool = False

    def texts(self, kind: str) -> list[str]:
        """Of the sections of a kind."""
        return [section.text for section in self.sections if section.kind == kind]

    @property
    def demonstration(self) -> str | None:
        """The first of the successful attempts that it shows."""
        return next(iter(self.texts("solution")), None)

    @property
    def feedback(self) -> str | None:
        """What the environment said about this very attempt."""
        return next(iter(self.texts("feedback")), None)

    @property
    def has_context(self) -> bool:
        """True when the teacher is shown something that the student did not have, so that it is worth distilling."""
        return any(SECTIONS[section.kind].teaches for section in self.sections)


def fill(template: str, **values: str) -> str:
    """Replace exactly the named `{placeholders}`, in one pass: other braces in template or values stay as they are."""
    pattern = "|".join(re.escape("{" + name + "}") for name in values)
    return re.sub(pattern, lambda match: values[match.group()[1:-1]], template)


def text_of(content: str | Sequence[Message]) -> str:
    """The text of a message's content, which may be a list of `{"type": "text", "text": ...}` parts.

    Raises:
        ValueError: on a part that is not text.
    """
    if isinstance(content, str):
        return content
    for part in content:
        if part.get("type") != "text":
            raise ValueError(
                f"a message content has a part of type {part.get('type')!r}: SDPO supports text only. Train on prompts "
                "without images, video or audio."
            )
    return "".join(part["text"] for part in content)


@dataclass(frozen=True)
class Attempt:
    """A graded attempt that may be shown to others."""

    number: int
    """Within its group."""
    text: str
    """The response, without its thinking if so configured."""
    is_success: bool


class Demonstrations:
    """Which of a group's successes a rollout is shown. A subclass puts them in order."""

    @dataclass(frozen=True)
    class Config:
        """The rules that need no settings."""

    def __init__(self, config: Any):
        self.config = config

    def rank(self, candidates: Sequence[Attempt], rollout: Rollout, step: int) -> Sequence[Attempt]:
        """The candidates, which come in the order of their attempts; the first `num_demonstrations` are shown.

        It may depend on the rollout and the training step, but not on the order of the batch: verl's arrive in any.
        """
        raise NotImplementedError


class FirstSuccess(Demonstrations):
    """The first one, as the authors: all members of a group share it, and its owner gets the next one."""

    def rank(self, candidates: Sequence[Attempt], rollout: Rollout, step: int) -> Sequence[Attempt]:
        return candidates


class RandomSuccess(Demonstrations):
    """Any of them, drawn anew in every step."""

    @dataclass(frozen=True)
    class Config(Demonstrations.Config):
        demonstration_seed: int = 0
        """Seed of the random demonstration choice; the training step is mixed in."""

        def __post_init__(self):
            require("demonstration_seed", self.demonstration_seed, lambda v: type(v) is int, "a whole number")

    def rank(self, candidates: Sequence[Attempt], rollout: Rollout, step: int) -> Sequence[Attempt]:
        seed = f"{self.config.demonstration_seed}/{step}/{rollout.messages}/{rollout.attempt}"
        return random.Random(seed).sample(candidates, len(candidates))


class ShortestSuccess(Demonstrations):
    """The one with the fewest characters; of equals the first."""

    def rank(self, candidates: Sequence[Attempt], rollout: Rollout, step: int) -> Sequence[Attempt]:
        return sorted(candidates, key=lambda attempt: len(attempt.text))


DEMONSTRATIONS: Mapping[str, type[Demonstrations]] = {
    "first": FirstSuccess,
    "random": RandomSuccess,
    "shortest": ShortestSuccess,
}


def break_up(text: str, markup: Sequence[str]) -> str:
    """Put a space behind the first character of every token of the chat markup that a text spells.

    The tokenizer would read the spelled token as the real one, and a demonstration could close the user's turn.
    """
    if not markup:
        return text
    longest_first = sorted(markup, key=len, reverse=True)
    pattern = "|".join(re.escape(token) for token in longest_first)
    return re.sub(pattern, lambda match: f"{match.group()[0]} {match.group()[1:]}", text)


def shown_attempts(
    rollouts: Sequence[Rollout], config: RepromptConfig, markup: Sequence[str] = ()
) -> dict[str, list[Attempt]]:
    """The attempts of each group, in order. One that is empty once its thinking is removed shows nothing."""
    found: dict[str, list[Attempt]] = {}
    for rollout in sorted(rollouts, key=lambda rollout: rollout.attempt):
        text = _shown_text(rollout, config, markup)
        if rollout.graded and text:
            attempt = Attempt(rollout.attempt, text, rollout.score >= config.success_reward_threshold)
            found.setdefault(rollout.uid, []).append(attempt)
    return found


def _shown_text(rollout: Rollout, config: RepromptConfig, markup: Sequence[str]) -> str:
    """A response as a teacher reads it; empty when it shows nothing."""
    strip = config.remove_thinking_from_demonstration
    text = remove_thinking(rollout.response) if strip else rollout.response
    return break_up(text, markup) if text.strip() else ""


def build_teacher_prompts(
    rollouts: Sequence[Rollout],
    config: RepromptConfig,
    demonstrations: Demonstrations,
    step: int,
    markup: Sequence[str] = (),
) -> list[TeacherPrompt]:
    """One teacher prompt per rollout, in order. Rollouts without demonstration and feedback keep their own prompt.

    Args:
        rollouts: the whole batch, all groups.
        step: of the training.
        markup: tokens of the chat markup, which demonstrations and feedback must not spell.
    """
    attempts = shown_attempts(rollouts, config, markup)
    prompts = []
    for rollout in rollouts:
        group = attempts.get(rollout.uid, [])
        sections = _knowledge(rollout, group, config, demonstrations, step, markup) if rollout.graded else []
        if sections:
            sections += _context(rollout, group, sections, config, markup)
        prompts.append(_render(TeacherPrompt([], tuple(sections)), rollout, config))
    return prompts


def _knowledge(
    rollout: Rollout,
    group: Sequence[Attempt],
    config: RepromptConfig,
    demonstrations: Demonstrations,
    step: int,
    markup: Sequence[str],
) -> list[Section]:
    """Demonstrations and feedback: what makes a teacher."""
    candidates = [attempt for attempt in group if attempt.is_success]
    own = [success for success in candidates if success.number == rollout.attempt]
    if own and config.self_success_as_solution:
        candidates = own
    elif config.dont_reprompt_on_self_success:
        candidates = [success for success in candidates if success not in own]
    chosen = demonstrations.rank(candidates, rollout, step)[: config.num_demonstrations] if candidates else []
    sections = [Section("solution", success.text) for success in chosen]
    wants_feedback = not sections or not config.environment_feedback_only_without_solution
    if config.include_environment_feedback and wants_feedback and has_feedback(rollout):
        sections.append(Section("feedback", break_up(rollout.feedback or "", markup)))
    return sections


def _context(
    rollout: Rollout,
    group: Sequence[Attempt],
    knowledge: Sequence[Section],
    config: RepromptConfig,
    markup: Sequence[str],
) -> list[Section]:
    """What is shown beside it: the sample's own attempt, unless it is the demonstration, and failures of others."""
    sections = []
    is_success = rollout.score >= config.success_reward_threshold
    if config.include_own_attempt and not (is_success and config.dont_reprompt_on_self_success):
        text = _shown_text(rollout, config, markup)
        if text and Section("solution", text) not in knowledge:
            sections.append(Section("attempt", text))
    failed = [attempt for attempt in group if not attempt.is_success and attempt.number != rollout.attempt]
    return sections + [Section("failed", attempt.text) for attempt in failed[: config.num_failed_attempts]]


def has_feedback(rollout: Rollout) -> bool:
    """Whether the environment said anything about this attempt."""
    return isinstance(rollout.feedback, str) and bool(rollout.feedback.strip())


def _render(prompt: TeacherPrompt, rollout: Rollout, config: RepromptConfig) -> TeacherPrompt:
    """Write the sections into the last user message; every other message stays as it is.

    With none that teaches, the teacher reads exactly what the student read.
    """
    messages = list(rollout.messages)
    if not prompt.has_context:
        return replace(prompt, messages=messages, sections=())
    last_user = max((i for i, message in enumerate(messages) if message["role"] == "user"), default=None)
    if last_user is None:
        raise ValueError(f"sample {rollout.uid}: the prompt has no user message, so there is nothing to reprompt.")
    shown = {
        section.place: "".join(
            fill(getattr(config, section.template), **{section.placeholder: text}) for text in prompt.texts(kind)
        )
        for kind, section in SECTIONS.items()
    }
    content = fill(config.reprompt_template, prompt=text_of(messages[last_user]["content"]), **shown)
    messages[last_user] = {**messages[last_user], "content": content}
    return replace(prompt, messages=messages)


def fit_teacher_prompt(
    prompt: TeacherPrompt,
    rollout: Rollout,
    config: RepromptConfig,
    *,
    tokenize_chat: Callable[[list[Message]], list[int]],
    encode: Callable[[str], list[int]],
    decode: Callable[[list[int]], str],
) -> tuple[TeacherPrompt, list[int]]:
    """Tokenise a teacher prompt, shortening the longest of its sections until it fits; those that teach come last.

    Nothing else is ever cut, so that question, section headers, instruction, chat markup and generation header stay
    whole. A section of which nothing would be left is dropped; a prompt that loses all that teach has no target any
    more.

    Returns:
        The prompt, marked as truncated if it was, and its token ids, at most `max_reprompt_len`.

    Raises:
        ValueError: naming the sample, when `reprompt_truncation` is "error" or nothing is left to cut.
    """
    token_ids = tokenize_chat(prompt.messages)
    parts: list[list[int]] = []
    while (excess := len(token_ids) - config.max_reprompt_len) > 0:
        where = f"sample {rollout.uid}: its teacher prompt has {len(token_ids)} tokens"
        limit = f"more than max_reprompt_len={config.max_reprompt_len}"
        if config.reprompt_truncation == "error":
            raise ValueError(f"{where}, {limit}. Raise it, or set reprompt_truncation to left or right.")
        if not prompt.sections:
            raise ValueError(f"{where} without demonstration and feedback, {limit}. Raise max_reprompt_len.")
        # Encoded once and only ever cut: what is decoded may encode to more tokens again.
        parts = parts or [encode(section.text) for section in prompt.sections]
        teaches = [SECTIONS[section.kind].teaches for section in prompt.sections]
        longest = max(range(len(parts)), key=lambda i: (not teaches[i], len(parts[i])))
        keep = max(len(parts[longest]) - excess, 0)
        start = 0 if config.reprompt_truncation == "right" else len(parts[longest]) - keep
        parts[longest] = parts[longest][start : start + keep]
        # A cut inside a multi-byte character decodes to replacement characters.
        text = decode(parts[longest]).strip("\N{REPLACEMENT CHARACTER}")
        sections = list(prompt.sections)
        sections[longest] = sections[longest]._replace(text=text)
        if not text.strip():
            del sections[longest], parts[longest]
        prompt = _render(replace(prompt, truncated=True, sections=tuple(sections)), rollout, config)
        token_ids = tokenize_chat(prompt.messages)
    return prompt, token_ids


def reprompt_metrics(
    rollouts: Sequence[Rollout], prompts: Sequence[TeacherPrompt], config: RepromptConfig
) -> dict[str, float]:
    """Coverage of a batch, under the authors' names. Padding rows do not count.

    `success_sample_fraction` is, as in the authors' code, the share of samples that *got a demonstration*.
    """
    graded = [(rollout, prompt) for rollout, prompt in zip(rollouts, prompts, strict=True) if rollout.graded]
    groups = {rollout.uid for rollout, _ in graded}
    solved = {rollout.uid for rollout, _ in graded if rollout.score >= config.success_reward_threshold}
    samples = max(len(graded), 1)
    return {
        "self_distillation/success_group_fraction": len(solved) / max(len(groups), 1),
        "self_distillation/success_sample_fraction": sum(p.demonstration is not None for _, p in graded) / samples,
        "self_distillation/feedback_available_fraction": sum(has_feedback(r) for r, _ in graded) / samples,
        "self_distillation/feedback_used_fraction": sum(p.feedback is not None for _, p in graded) / samples,
        "self_distillation/reprompt_sample_fraction": sum(p.has_context for _, p in graded) / samples,
        "self_distillation/truncated_reprompt_fraction": sum(p.truncated for _, p in graded) / samples,
    }
