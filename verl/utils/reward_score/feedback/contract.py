"""Contract of every grader: `Task` in, `Grade` out, and the one flat dict that verl gets."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import Enum
from typing import Any

from verl.utils.reward_score.feedback.sandbox import Level, SandboxConfig


class Verdict(str, Enum):
    """Reason for an attempt's score. Text is rendered from it and never parsed back."""

    ACCEPTED = "accepted"
    WRONG_ANSWER = "wrong_answer"
    COMPILE_ERROR = "compile_error"
    RUNTIME_ERROR = "runtime_error"
    TIME_LIMIT = "time_limit"
    MEMORY_LIMIT = "memory_limit"
    OUTPUT_LIMIT = "output_limit"
    NO_CODE = "no_code"
    FORMAT_ERROR = "format_error"
    TRUNCATED = "truncated"
    GRADER_ERROR = "grader_error"


class Reveal(str, Enum):
    """Share of the task's answer that feedback may show; each level includes the ones before it."""

    NONE = "none"
    """The verdict's name only."""
    FORM = "form"
    """Fault of the response itself; the text is the same whatever the gold answer is."""
    MISMATCH = "mismatch"
    """Part of the response that differs from the gold answer, never the gold answer."""
    GOLD = "gold"
    """The gold answer."""

    def allows(self, level: "Reveal") -> bool:
        order = list(Reveal)
        return order.index(self) >= order.index(level)


class GraderFault(Exception):
    """The grader, not the model, is at fault: a broken ground truth or a broken helper process."""


MODES = ("script", "lcb-official", "paper")
STYLES = ("rich", "reference")


@dataclass(frozen=True)
class Options:
    """Graders' settings, given as `reward.custom_reward_function.reward_kwargs`."""

    mode: str = "script"
    """Rules by which programs are extracted, run and compared: `script`, `lcb-official` or `paper`."""
    style: str = "rich"
    """Wording of code feedback: `rich` or `reference`."""
    reveal: Reveal | None = None
    """Share of the answer that feedback shows, for every dataset; None is each dataset's own default."""
    sandbox: SandboxConfig | None = None
    """Confinement of programs; None leaves it to the environment."""

    @classmethod
    def from_kwargs(cls, kwargs: Mapping[str, Any]) -> "Options":
        """Build options from plain values: None is the default, `sandbox` a mapping of `SandboxConfig`'s fields.

        Raises:
            ValueError: An unknown option or value; the message lists the known ones.
        """
        given = {name: value for name, value in kwargs.items() if value is not None}
        _check("reward_kwargs", given, [option.name for option in fields(cls)])
        for name, known in (("mode", MODES), ("style", STYLES), ("reveal", [level.value for level in Reveal])):
            if name in given:
                _check(f"reward_kwargs.{name}", [given[name]], known)
        if "reveal" in given:
            given["reveal"] = Reveal(given["reveal"])
        if "sandbox" in given:
            given["sandbox"] = _sandbox_config(given["sandbox"])
        return cls(**given)


def _sandbox_config(given: Mapping[str, Any]) -> SandboxConfig:
    _check("reward_kwargs.sandbox", given, [option.name for option in fields(SandboxConfig)])
    values = dict(given)
    for name in ("min_level", "max_level"):
        if name in values:
            _check(f"reward_kwargs.sandbox.{name}", [values[name]], list(Level.__members__))
            values[name] = Level[values[name]]
    return replace(SandboxConfig.from_env(), **values)


def _check(where: str, got: Iterable[str], known: Sequence[str]):
    for value in got:
        if value not in known:
            raise ValueError(f"{where}: {value!r} is unknown, expected one of {', '.join(known)}.")


@dataclass(frozen=True)
class Task:
    """One response to grade."""

    response: str
    ground_truth: Any
    problem: str
    """The prompt's text, `extra_info["problem"]`; "" where the dataset has none."""
    truncated: bool
    """True if generation was cut by the length limit."""
    reveal: Reveal
    options: Options


@dataclass(frozen=True)
class Grade:
    """A grader's result."""

    verdict: Verdict
    pred: str = ""
    feedback: str = ""
    acc: float | None = None
    """Share of tests passed; None means 1 if accepted, else 0."""
    sandbox_insecure: bool = False
    """The response ran in a sandbox weaker than `sandbox.min_level`, by `allow_insecure`."""
    comparison_failed: bool = False
    """math-verify could not read the answer or the gold answer, so only their spelling was compared."""

    def __post_init__(self):
        silent = self.verdict in (Verdict.ACCEPTED, Verdict.GRADER_ERROR)
        assert silent == (self.feedback == ""), f"{self.verdict.value} with feedback {self.feedback!r}"


MAX_PRED_CHARS = 1000


def to_result(grade: Grade, *, truncated: bool) -> dict[str, Any]:
    """Flatten a grade into verl's `reward_extra_info`: the same keys and types for every sample and dataset.

    Every string can be written as UTF-8: half of a surrogate pair, which JSON may spell, becomes a visible escape.

    verl takes the keys of the first sample and indexes all others with them, so no key may depend on the outcome.
    Flags are 0 or 1, so that verl averages them into validation metrics; strings are not averaged.
    """
    score = float(grade.verdict is Verdict.ACCEPTED)
    return {
        "score": score,
        "acc": score if grade.acc is None else float(grade.acc),
        "pred": _encodable(grade.pred[-MAX_PRED_CHARS:].replace("\x00", "")),
        "feedback": _encodable(grade.feedback),
        "verdict": grade.verdict.value,
        "incorrect_format": int(grade.verdict in (Verdict.FORMAT_ERROR, Verdict.NO_CODE)),
        "truncated": int(truncated),
        "timed_out": int(grade.verdict is Verdict.TIME_LIMIT),
        "grader_error": int(grade.verdict is Verdict.GRADER_ERROR),
        "comparison_failed": int(grade.comparison_failed),
        "sandbox_insecure": int(grade.sandbox_insecure),
    }


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
