"""Feedback on a failed program, as text for a model: rendered from verdicts, sanitised and bounded."""

import json
import signal
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby, zip_longest
from typing import Any

from verl.utils.reward_score.feedback import compare
from verl.utils.reward_score.feedback.contract import Reveal, Verdict
from verl.utils.reward_score.feedback.sandbox import Job, Opaque, TestOutcome
from verl.utils.reward_score.feedback.sandbox.api import MIB
from verl.utils.reward_score.feedback.text import bound, clip, clip_lines, hide_directories, sanitise

_TITLES = {
    Verdict.COMPILE_ERROR: "Compile Error",
    Verdict.RUNTIME_ERROR: "Runtime Error",
    Verdict.TIME_LIMIT: "Time Limit Exceeded",
    Verdict.MEMORY_LIMIT: "Memory Limit Exceeded",
    Verdict.OUTPUT_LIMIT: "Output Limit Exceeded",
    Verdict.WRONG_ANSWER: "Wrong Answer",
    Verdict.NO_CODE: "Incorrect Format",
    Verdict.TRUNCATED: "Truncated Attempt",
}
_MAX_WRONG_ANSWERS = 2
_MAX_FRAMES = 3
_MAX_MESSAGE_CHARS = 300
_MAX_VALUE_CHARS = 250
_MAX_INPUT_LINES = 8
_MAX_DEBUG_LINES, _MAX_DEBUG_CHARS = 10, 300


@dataclass(frozen=True)
class Failure:
    """One failed test."""

    index: int
    verdict: Verdict
    kind: str
    input: str
    expected: str
    outcome: TestOutcome

    @property
    def output(self) -> str:
        """Output that the program printed, or value that it returned as Python writes it."""
        if self.kind == "stdin":
            return self.outcome.stdout
        return show_value(self.outcome.result) if self.outcome.returned else ""

    @property
    def shown_input(self) -> str:
        """The test's input; an assertion test is secret, so there its last call of the program."""
        return self.outcome.last_call if self.kind == "assert" else self.input


@dataclass(frozen=True)
class View:
    """Options of showing failures."""

    program: str
    time_limit: float
    """Seconds."""
    reveal: Reveal
    rich: bool
    """Style `rich`; else `reference`, the wording and limits of the SDPO authors' grader."""
    same_line: Callable[[str, str], bool] = compare.lines_match
    """Return True if a printed line counts as the expected one."""

    def value(self, text: str) -> str:
        text = text.rstrip("\n")
        if self.rich:
            return clip_lines(text, lines=_MAX_INPUT_LINES, chars=_MAX_VALUE_CHARS)
        return text[:_MAX_VALUE_CHARS] + "..." * (len(text) > _MAX_VALUE_CHARS)

    def input(self, text: str) -> str:
        if self.rich:
            return self.value(text)
        rows = text.rstrip("\n").split("\n")
        shown = [row[:_MAX_VALUE_CHARS] + "..." * (len(row) > _MAX_VALUE_CHARS) for row in rows[:_MAX_INPUT_LINES]]
        if len(rows) > _MAX_INPUT_LINES:
            shown.append(f"... ({len(rows) - _MAX_INPUT_LINES} more lines)")
        return "\n".join(shown)


def show_value(value: Any) -> str:
    """A returned value as Python writes it."""
    if isinstance(value, Opaque):
        return f"(an object of type {value.type_name}, expected plain data)"
    try:
        return repr(value)
    except (RecursionError, ValueError):  # too deep, or an integer of too many digits
        return f"(a {type(value).__name__} too large to show)"


def render(failures: list[Failure], view: View) -> str:
    """Feedback on failures of one verdict; "" if there are none."""
    if not failures:
        return ""
    if view.reveal is Reveal.NONE:
        return _TITLES[failures[0].verdict]
    if failures[0].verdict is Verdict.WRONG_ANSWER:
        failures = sorted(failures, key=lambda failure: len(failure.input) + len(failure.output))
        text = "\n\n".join(_wrong_answer(failure, view) for failure in failures[:_MAX_WRONG_ANSWERS])
    else:
        text = _stopped(failures[0], view)
    return bound(sanitise(text))


def render_no_code(verdict: Verdict, reveal: Reveal) -> str:
    """Feedback on a response without a program."""
    how = "Put the whole program into one closed Markdown code block that is marked as python."
    if verdict is Verdict.TRUNCATED:
        how = f"The response reached the length limit before its program was complete; reason more briefly. {how}"
    return f"{_TITLES[verdict]}: {how}" if reveal.allows(Reveal.FORM) else _TITLES[verdict]


def _wrong_answer(failure: Failure, view: View) -> str:
    sections = [(f"Test Case {failure.index + 1}: Wrong Answer", "")]
    if view.reveal.allows(Reveal.MISMATCH):
        nothing = "(no output)" if view.rich else ""
        sections += [("Input", view.input(failure.shown_input)), ("Output", view.value(failure.output) or nothing)]
    if view.reveal.allows(Reveal.GOLD):
        sections += _expectation(failure, view)
    if view.reveal.allows(Reveal.MISMATCH) and failure.outcome.stderr.strip():
        rows = failure.outcome.stderr.strip().split("\n")[:_MAX_DEBUG_LINES]
        sections.append(("Debug Output", "\n".join(row[:_MAX_DEBUG_CHARS] for row in rows)))
    return "\n\n".join(f"{title}\n{body}" if body else title for title, body in sections)


def _expectation(failure: Failure, view: View) -> list[tuple[str, str]]:
    if failure.kind == "assert":
        return [("Failed Check", view.value(f"{failure.outcome.exception}: {failure.outcome.message}"))]
    if failure.kind == "functional":
        return [("Expected", view.value(show_value(json.loads(failure.expected))))]
    sections = [("Expected", view.value(failure.expected))]
    if view.rich and failure.expected.count("\n") >= _MAX_INPUT_LINES:
        sections += _first_difference(failure, view)
    return sections


def _first_difference(failure: Failure, view: View) -> list[tuple[str, str]]:
    got, want = (text.strip().split("\n") for text in (failure.output, failure.expected))
    for i, (a, b) in enumerate(zip_longest(got, want, fillvalue="(end of output)"), start=1):
        if not view.same_line(a, b):
            return [(f"First different line: {i}", f"{view.value(a)}\n{view.value(b)}")]
    return []  # mode `paper` rejects some outputs whose lines all match


def _stopped(failure: Failure, view: View) -> str:
    text, shown = _headline(failure, view), failure.shown_input
    if failure.verdict is not Verdict.COMPILE_ERROR and view.reveal.allows(Reveal.MISMATCH):
        text += f"\n\nLast Executed Input\n{view.input(shown)}"
        if view.rich and len(shown) > _MAX_VALUE_CHARS:
            text += f"\n({len(shown.splitlines())} lines, {len(shown)} characters)"
    return text


def _headline(failure: Failure, view: View) -> str:
    title, outcome = _TITLES[failure.verdict], failure.outcome
    if failure.verdict is Verdict.COMPILE_ERROR and not view.rich:
        lines = "".join(f", line {frame.line}" for frame in outcome.frames[-1:])
        return f"{_TITLES[Verdict.RUNTIME_ERROR]}\n{_error(outcome)} (Solution.py{lines})"
    if failure.verdict in (Verdict.COMPILE_ERROR, Verdict.RUNTIME_ERROR):
        return "\n".join([title, _error(outcome), *_frames(failure, view), *_blocked(failure, view)])
    limits = {
        Verdict.TIME_LIMIT: f" ({view.time_limit:g} s)",
        Verdict.MEMORY_LIMIT: f" ({Job.memory_limit // MIB} MiB)",
    }
    return title + limits.get(failure.verdict, "") * view.rich


def _error(outcome: TestOutcome) -> str:
    if outcome.exception:
        message = clip(hide_directories(outcome.message), _MAX_MESSAGE_CHARS)
        return f"{outcome.exception}: {message}" if message else outcome.exception
    if outcome.signal:
        native = " (stack overflow or native crash)" if outcome.signal == signal.SIGSEGV else ""
        return f"The program was killed by signal {outcome.signal}{native}."
    return f"The program exited with status {outcome.exit_code or 0} before it finished or returned a value."


def _frames(failure: Failure, view: View) -> list[str]:
    """The innermost frames, recursion collapsed; the program may have forged them."""
    source = view.program.split("\n")
    rows = []
    for frame, same in [(frame, list(group)) for frame, group in groupby(failure.outcome.frames)][-_MAX_FRAMES:]:
        if view.rich and 0 < frame.line <= len(source):
            rows.append(clip(source[frame.line - 1].strip(), _MAX_VALUE_CHARS))
        place = "" if failure.verdict is Verdict.COMPILE_ERROR else f" in {clip(frame.function, 100)}"
        # The sandbox keeps only the innermost frames, so the number of repeats is unknown.
        rows.append(f"Line {frame.line}{place} (Solution.py)" + ", repeatedly" * (len(same) > 1))
    return rows


def _blocked(failure: Failure, view: View) -> list[str]:
    denied = view.rich and failure.outcome.exception == "PermissionError"
    return ["The program runs without network, file and process access."] if denied else []
