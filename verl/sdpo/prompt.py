"""The teacher's prompt: the student's own question with the teacher's context, fitted to a length.

Pure Python: no tensors, no tokenizer class, no verl.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from verl.sdpo.checks import is_positive_int, require, require_choice
from verl.sdpo.context import CONTEXTS, Demonstration, Feedback, Message, Rollout, Section, Shown, texts_of

TRUNCATIONS = ("left", "right", "error")


@dataclass(frozen=True)
class PromptConfig:
    """Form and length of the teacher's prompt."""

    reprompt_template: str = (
        "{prompt}"
        + "".join("{" + place + "}" for place in dict.fromkeys(kind.place for kind in CONTEXTS.values()))
        + "\n\nCorrectly solve the original question."
    )
    """The teacher's user message. Every placeholder but {prompt} is filled with its sections, or empty."""

    max_reprompt_len: int = 10240
    """Longest teacher prompt, in tokens, chat template included."""

    reprompt_truncation: str = "right"
    """End of an over-long demonstration or feedback that is cut (left, right), or error."""

    def __post_init__(self):
        self._require_place("prompt")
        require("max_reprompt_len", self.max_reprompt_len, is_positive_int, "a whole number of tokens >= 1")
        require_choice("reprompt_truncation", self.reprompt_truncation, TRUNCATIONS)

    def _require_place(self, place: str) -> None:
        needle = "{" + place + "}"
        require(
            "reprompt_template",
            self.reprompt_template,
            lambda v: isinstance(v, str) and needle in v,
            f"a text that contains {needle}",
        )

    def check_places(self, sections: Sequence[Section]) -> None:
        """Check that the template has a place for every section that is on.

        Raises:
            ValueError: naming the template and the place that it lacks.
        """
        for section in sections:
            if section.is_on:
                self._require_place(section.place)


@dataclass(frozen=True)
class TeacherPrompt:
    """The chat that the teacher reads before it scores one rollout."""

    messages: list[Message]
    shown: tuple[Shown, ...] = ()
    """The teacher's context, as far as it fits."""
    truncated: bool = False

    def texts(self, kind: type[Section]) -> list[str]:
        """Return the texts of one kind of section."""
        return texts_of(self.shown, kind)

    @property
    def demonstration(self) -> str | None:
        """The first of the successful attempts that are shown."""
        return next(iter(self.texts(Demonstration)), None)

    @property
    def feedback(self) -> str | None:
        """The environment's words about this very attempt, if they are shown."""
        return next(iter(self.texts(Feedback)), None)

    @property
    def has_context(self) -> bool:
        """True when the teacher is shown something that the student did not have, so that it is worth distilling."""
        return any(section.teaches for section, _ in self.shown)


def fill(template: str, **values: str) -> str:
    """Replace exactly the named `{placeholders}`, in one pass: other braces in template or values stay as they are."""
    pattern = "|".join(re.escape("{" + name + "}") for name in values)
    return re.sub(pattern, lambda match: values[match.group()[1:-1]], template)


def text_of(content: str | Sequence[Message]) -> str:
    """Return the text of a message's content, which may be a list of `{"type": "text", "text": ...}` parts.

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


def render(rollout: Rollout, shown: Sequence[Shown], config: PromptConfig) -> TeacherPrompt:
    """Write a context into the last user message; every other message stays as it is.

    Without a section that teaches, the teacher reads exactly what the student read.

    Args:
        shown: result of `teacher_context`.
    """
    prompt = TeacherPrompt(list(rollout.messages), tuple(shown))
    if not prompt.has_context:
        return replace(prompt, shown=())
    messages = prompt.messages
    last_user = max((i for i, message in enumerate(messages) if message["role"] == "user"), default=None)
    if last_user is None:
        raise ValueError(f"sample {rollout.uid}: the prompt has no user message, so there is nothing to reprompt.")
    places = dict.fromkeys((kind.place for kind in CONTEXTS.values()), "")
    for section, text in shown:
        places[section.place] += fill(getattr(section.config, section.template), **{section.placeholder: text})
    content = fill(config.reprompt_template, prompt=text_of(messages[last_user]["content"]), **places)
    messages[last_user] = {**messages[last_user], "content": content}
    return prompt


def fit_teacher_prompt(
    prompt: TeacherPrompt,
    rollout: Rollout,
    config: PromptConfig,
    *,
    tokenize_chat: Callable[[list[Message]], list[int]],
    encode: Callable[[str], list[int]],
    decode: Callable[[list[int]], str],
) -> tuple[TeacherPrompt, list[int]]:
    """Tokenise a teacher prompt, shortening the longest of its sections until it fits; those that teach come last.

    Nothing else is ever cut, so that question, section headers, instruction, chat markup and generation header stay
    complete. A section of which nothing would be left is dropped; a prompt that loses all that teach has no teacher
    context any more.

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
        if not prompt.shown:
            raise ValueError(f"{where} without demonstration and feedback, {limit}. Raise max_reprompt_len.")
        # Encoded once and only ever cut: what is decoded may encode to more tokens again.
        parts = parts or [encode(text) for _, text in prompt.shown]
        teaches = [section.teaches for section, _ in prompt.shown]
        longest = max(range(len(parts)), key=lambda i: (not teaches[i], len(parts[i])))
        keep = max(len(parts[longest]) - excess, 0)
        start = 0 if config.reprompt_truncation == "right" else len(parts[longest]) - keep
        parts[longest] = parts[longest][start : start + keep]
        # A cut inside a multi-byte character decodes to replacement characters.
        text = decode(parts[longest]).strip("\N{REPLACEMENT CHARACTER}")
        shown = list(prompt.shown)
        shown[longest] = shown[longest]._replace(text=text)
        if not text.strip():
            del shown[longest], parts[longest]
        prompt = replace(render(rollout, shown, config), truncated=True)
        token_ids = tokenize_chat(prompt.messages)
    return prompt, token_ids
