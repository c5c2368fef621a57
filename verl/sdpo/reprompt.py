"""Builds what the self-teacher reads: the student's own question plus a demonstration or the environment's feedback.

Pure Python: no tensors, no tokenizer class, no verl. A chat is a list of `{"role", "content"}` messages.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from verl.sdpo.reasoning import remove_thinking

Message = dict[str, Any]


class RepromptSettings(Protocol):
    """The fields of `SelfDistillationConfig` that are read here."""

    success_reward_threshold: float
    max_reprompt_len: int
    reprompt_truncation: str
    dont_reprompt_on_self_success: bool
    remove_thinking_from_demonstration: bool
    demonstration_choice: str
    reprompt_template: str
    solution_template: str
    feedback_template: str
    include_environment_feedback: bool
    environment_feedback_only_without_solution: bool


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


@dataclass(frozen=True)
class TeacherPrompt:
    """What the teacher reads before it scores one rollout."""

    messages: list[Message]
    demonstration: str | None = None
    """A successful attempt at the same question."""
    feedback: str | None = None
    """What the environment said about this very attempt."""
    truncated: bool = False

    @property
    def has_target(self) -> bool:
        """Whether the teacher knows something the student did not, so that its distribution is worth distilling."""
        return self.demonstration is not None or self.feedback is not None


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


def choose_demonstrations(rollouts: Sequence[Rollout], settings: RepromptSettings, seed: str) -> list[str | None]:
    """For each rollout, a successful attempt at the same question, or None.

    The group's first success (all members then share it, and its owner gets the next one), or a random one, which
    depends on seed, question and attempt but not on the order of the rows: verl's batches arrive in any order. A
    success that is empty once its thinking is removed shows nothing and is passed over.
    """
    successes: dict[str, list[tuple[int, str]]] = {}
    for rollout in sorted(rollouts, key=lambda rollout: rollout.attempt):
        if rollout.graded and rollout.score >= settings.success_reward_threshold:
            strip = settings.remove_thinking_from_demonstration
            text = remove_thinking(rollout.response) if strip else rollout.response
            if text.strip():
                successes.setdefault(rollout.uid, []).append((rollout.attempt, text))
    demonstrations: list[str | None] = []
    for rollout in rollouts:
        candidates = [
            text
            for owner, text in successes.get(rollout.uid, [])
            if owner != rollout.attempt or not settings.dont_reprompt_on_self_success
        ]
        if not candidates or not rollout.graded:
            demonstrations.append(None)
        elif settings.demonstration_choice == "random":
            demonstrations.append(random.Random(f"{seed}/{rollout.messages}/{rollout.attempt}").choice(candidates))
        else:
            demonstrations.append(candidates[0])
    return demonstrations


def build_teacher_prompts(rollouts: Sequence[Rollout], settings: RepromptSettings, seed: str) -> list[TeacherPrompt]:
    """One teacher prompt per rollout, in order. Rollouts without demonstration and feedback keep their own prompt.

    Args:
        rollouts: the whole batch, all groups.
        seed: of this step; used by `demonstration_choice: random` only.
    """
    demonstrations = choose_demonstrations(rollouts, settings, seed)
    return [_teacher_prompt(rollout, demo, settings) for rollout, demo in zip(rollouts, demonstrations, strict=True)]


def _teacher_prompt(rollout: Rollout, demonstration: str | None, settings: RepromptSettings) -> TeacherPrompt:
    wants_feedback = demonstration is None or not settings.environment_feedback_only_without_solution
    feedback = None
    if settings.include_environment_feedback and wants_feedback and rollout.graded and has_feedback(rollout):
        feedback = rollout.feedback
    return _render(TeacherPrompt([], demonstration, feedback), rollout, settings)


def has_feedback(rollout: Rollout) -> bool:
    """Whether the environment said anything about this attempt."""
    return isinstance(rollout.feedback, str) and bool(rollout.feedback.strip())


def _render(prompt: TeacherPrompt, rollout: Rollout, settings: RepromptSettings) -> TeacherPrompt:
    """Write demonstration and feedback into the last user message; every other message stays as it is.

    With neither, the teacher reads exactly what the student read.
    """
    messages = list(rollout.messages)
    if not prompt.has_target:
        return replace(prompt, messages=messages)
    last_user = max((i for i, message in enumerate(messages) if message["role"] == "user"), default=None)
    if last_user is None:
        raise ValueError(f"sample {rollout.uid}: the prompt has no user message, so there is nothing to reprompt.")
    solution = feedback = ""
    if prompt.demonstration is not None:
        solution = fill(settings.solution_template, successful_previous_attempt=prompt.demonstration)
    if prompt.feedback is not None:
        feedback = fill(settings.feedback_template, feedback_raw=prompt.feedback)
    question = text_of(messages[last_user]["content"])
    content = fill(settings.reprompt_template, prompt=question, solution=solution, feedback=feedback)
    messages[last_user] = {**messages[last_user], "content": content}
    return replace(prompt, messages=messages)


def fit_teacher_prompt(
    prompt: TeacherPrompt,
    rollout: Rollout,
    settings: RepromptSettings,
    *,
    tokenize_chat: Callable[[list[Message]], list[int]],
    encode: Callable[[str], list[int]],
    decode: Callable[[list[int]], str],
) -> tuple[TeacherPrompt, list[int]]:
    """Tokenise a teacher prompt, shortening the longer of demonstration and feedback until it fits.

    Nothing else is ever cut, so that question, section headers, instruction, chat markup and generation header stay
    whole. A section of which nothing would be left is dropped; a prompt that loses all of them has no target any more.

    Returns:
        The prompt, marked as truncated if it was, and its token ids, at most `max_reprompt_len`.

    Raises:
        ValueError: naming the sample, when `reprompt_truncation` is "error" or nothing is left to cut.
    """
    token_ids = tokenize_chat(prompt.messages)
    # Encoded once and only ever cut: what is decoded may encode to more tokens again.
    parts = {name: encode(getattr(prompt, name) or "") for name in ("demonstration", "feedback")}
    while (excess := len(token_ids) - settings.max_reprompt_len) > 0:
        where = f"sample {rollout.uid}: its teacher prompt has {len(token_ids)} tokens"
        limit = f"more than max_reprompt_len={settings.max_reprompt_len}"
        if settings.reprompt_truncation == "error":
            raise ValueError(f"{where}, {limit}. Raise it, or set reprompt_truncation to left or right.")
        name = max(parts, key=lambda part: len(parts[part]))
        if not parts[name]:
            raise ValueError(f"{where} without demonstration and feedback, {limit}. Raise max_reprompt_len.")
        keep = max(len(parts[name]) - excess, 0)
        start = 0 if settings.reprompt_truncation == "right" else len(parts[name]) - keep
        parts[name] = parts[name][start : start + keep]
        # A cut inside a multi-byte character decodes to replacement characters.
        text = decode(parts[name]).strip("\N{REPLACEMENT CHARACTER}")
        cut = replace(prompt, **{name: text if text.strip() else None, "truncated": True})
        prompt = _render(cut, rollout, settings)
        token_ids = tokenize_chat(prompt.messages)
    return prompt, token_ids


def reprompt_metrics(
    rollouts: Sequence[Rollout], prompts: Sequence[TeacherPrompt], settings: RepromptSettings
) -> dict[str, float]:
    """Coverage of a batch, under the authors' names. Padding rows do not count.

    `success_sample_fraction` is, as in the authors' code, the share of samples that *got a demonstration*.
    """
    graded = [(rollout, prompt) for rollout, prompt in zip(rollouts, prompts, strict=True) if rollout.graded]
    groups = {rollout.uid for rollout, _ in graded}
    solved = {rollout.uid for rollout, _ in graded if rollout.score >= settings.success_reward_threshold}
    samples = max(len(graded), 1)
    return {
        "self_distillation/success_group_fraction": len(solved) / max(len(groups), 1),
        "self_distillation/success_sample_fraction": sum(p.demonstration is not None for _, p in graded) / samples,
        "self_distillation/feedback_available_fraction": sum(has_feedback(r) for r, _ in graded) / samples,
        "self_distillation/feedback_used_fraction": sum(p.feedback is not None for _, p in graded) / samples,
        "self_distillation/reprompt_sample_fraction": sum(p.has_target for _, p in graded) / samples,
        "self_distillation/truncated_reprompt_fraction": sum(p.truncated for _, p in graded) / samples,
    }
