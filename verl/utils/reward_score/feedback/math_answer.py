"""Math: the one boxed answer, compared by math-verify in a helper process that may be lost without harm."""

import json
import logging
import os
import queue
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from verl.utils.reward_score.feedback.answer import no_answer, wrong_answer
from verl.utils.reward_score.feedback.contract import Grade, GraderFault, Task, Verdict
from verl.utils.reward_score.feedback.extract import boxed_answers
from verl.utils.reward_score.feedback.latex import (
    INEQUALITY,
    normalise,
    rising,
    spelling,
    split_base,
    split_name,
    split_unit,
    squeezed,
    units_differ,
    without_indices,
    without_percent,
)
from verl.utils.reward_score.feedback.text import clip

logger = logging.getLogger(__name__)

HOW = r"Give exactly one final answer inside \boxed{your_answer}."

MAX_ANSWER_CHARS = 2000
# Numbers that sympy would work on for minutes: towers of powers, huge exponents and factorials, endless digits. The
# helper's alarm stops every such comparison, but only after seconds.
_EXPLOSIVE = re.compile(r"(?:\^\s*\{?\s*[\d.]+\s*){3}|\^\s*\{?\s*\d{5,}|\d{5,}\s*[)}]*\s*!|\d{400,}")
_MAX_BRACKETS = 100


def hopeless(answer: str) -> bool:
    """Return True if an answer is too nested or too large a number to be worth evaluating."""
    return len(re.findall(r"[({\[]", answer)) > _MAX_BRACKETS or bool(_EXPLOSIVE.search(answer))


class Comparison(NamedTuple):
    equal: bool
    error: str = ""
    """Exception of math-verify on either answer; then they are equal only if they are written alike."""


EQUAL, UNEQUAL = Comparison(True), Comparison(False)


class Helper:
    """One exec'd process that runs math-verify. It ends when its pipe closes or a comparison takes too long."""

    def __init__(self, wall_seconds: int = 10):
        self._process = subprocess.Popen(
            [sys.executable, "-s", str(Path(__file__).with_name("math_helper.py")), str(wall_seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={
                "PATH": os.defpath,
                "LANG": "C.UTF-8",
                "PYTHONHASHSEED": "0",
                "OMP_NUM_THREADS": "1",
                # math-verify is to be found wherever this process would find it.
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
            text=True,
            encoding="utf-8",
        )
        assert self._process.stdin and self._process.stdout
        self._requests, self._replies = self._process.stdin, self._process.stdout

    def compare(self, gold: str, answer: str) -> Comparison:
        """Ask math-verify. An answer that hangs or kills the helper is unequal.

        Raises:
            GraderFault: The helper did not get through the gold answer, or was gone before.
        """
        try:
            self._requests.write(json.dumps([gold, answer]) + "\n")
            self._requests.flush()
        except OSError as error:
            raise GraderFault(f"the math helper is gone: {error}") from error
        if not self._reply():
            raise GraderFault(f"the math helper ended while it parsed the gold answer {clip(gold, 200)!r}")
        return Comparison(**(self._reply() or {"equal": False, "error": "it took too long"}))

    def _reply(self) -> dict[str, Any]:
        line = self._replies.readline()
        if not line:
            self._process.wait()
        return json.loads(line or "{}")

    def alive(self) -> bool:
        """True if the helper can compare again."""
        return self._process.poll() is None


class HelperPool:
    """Pool of at most `size` helpers, each started when first needed; callers wait for a free one."""

    def __init__(self, size: int):
        self._free: queue.LifoQueue[Helper | None] = queue.LifoQueue()
        for _ in range(size):
            self._free.put(None)

    def compare(self, gold: str, answer: str) -> Comparison:
        helper = self._free.get()
        try:
            helper = helper if helper and helper.alive() else Helper()
            return helper.compare(gold, answer)
        finally:
            self._free.put(helper)


_POOL = HelperPool(size=2)

# Text, primes, moduli, operators, subscripts of numbers, and what was left out: math-verify would read something else.
_NOT_FOR_MATH_VERIFY = re.compile(
    r"\\text\s*\{|\'|\\pmod|[\d)}]\s*_|\\(?:mid|nmid|to|neg|equiv|oplus|ominus|otimes|odot|circ|ldots)(?![a-zA-Z])"
)
_INDEX = re.compile(r"_\s*\{?\s*i(?![a-zA-Z])|\\(?:sum|prod)(?![a-zA-Z])")
_IMAGINARY_UNIT = re.compile(r"(?<![a-zA-Z\\_])i(?![a-zA-Z])")
_COMMAND_OR_LETTER = re.compile(r"\\(?P<gamma>Gamma)(?!\s*\()(?![a-zA-Z])|\\[a-zA-Z]+|(?P<i>I)")
_RELATION = re.compile(
    r"[=<>]|\\(?:[lg]eq?|neq?|[lg]eqslant|[lg]t|in|notin|equiv|approx|sim|cong|subset\w*)(?![a-zA-Z])"
)
_CONNECTIVE = re.compile(r"\s*\\l(?:or|and)(?![a-zA-Z])\s*")


def compare(gold: str, answer: str) -> Comparison:
    """Compare two boxed answers: equal if written alike once normalised, or of the same value for math-verify."""
    if squeezed(gold) == squeezed(answer):
        return EQUAL
    if max(len(gold), len(answer)) > MAX_ANSWER_CHARS:
        return UNEQUAL
    gold, answer = _values(*map(rising, _in_one_form(normalise(gold), normalise(answer))))
    if spelling(gold) == spelling(answer) or without_percent(gold) == without_percent(answer):
        return EQUAL
    (gold_digits, gold_base), (answer_digits, answer_base) = split_base(gold), split_base(answer)
    if gold_base or answer_base:
        # The question names the base, so the answer need not; a gold answer without one is decimal.
        same_base = answer_base in (gold_base, None) if gold_base else answer_base == 10
        return Comparison(same_base and gold_digits == answer_digits.lower())
    (gold_value, gold_unit), (answer_value, answer_unit) = split_unit(gold), split_unit(answer)
    if units_differ(gold_unit, answer_unit):
        return UNEQUAL
    return EQUAL if gold_value == answer_value else _by_value(gold_value, answer_value)


def _in_one_form(gold: str, answer: str) -> tuple[str, str]:
    """Return both with commas between conditions if either has them, and without the indices that only one has."""
    if any("," in text and INEQUALITY.search(text) and not _CONNECTIVE.search(text) for text in (gold, answer)):
        gold, answer = (_CONNECTIVE.sub(" , ", text) for text in (gold, answer))
    plain = without_indices(gold), without_indices(answer)
    if (plain[0] == gold) != (plain[1] == answer):
        return plain
    return gold, answer


def _values(gold: str, answer: str) -> tuple[str, str]:
    """Return both without their names, if only one has a name or both have the same."""
    (gold_name, gold_value), (answer_name, answer_value) = split_name(gold), split_name(answer)
    if gold_name and answer_name:
        return (gold_value, answer_value) if spelling(gold_name) == spelling(answer_name) else (gold, answer)
    if answer_name and not _RELATION.search(gold):
        return gold, answer_value
    if gold_name and not _RELATION.search(answer):
        return gold_value, answer
    return gold, answer


def _by_value(gold: str, answer: str) -> Comparison:
    if any(_NOT_FOR_MATH_VERIFY.search(text) or hopeless(text) for text in (gold, answer)):
        return UNEQUAL
    gold, answer = (_COMMAND_OR_LETTER.sub(_letter, text) for text in (gold, answer))
    if not (_INDEX.search(gold) or _INDEX.search(answer)):
        gold, answer = (_IMAGINARY_UNIT.sub("I", text) for text in (gold, answer))
    return _POOL.compare(gold, answer)


def _letter(match: re.Match) -> str:
    """Return a letter that math-verify takes for the imaginary unit or a function in a font that makes it a name."""
    name = match["gamma"] or match["i"]
    return rf"\mathbb{{{name}}}" if name else match[0]


def grade(task: Task) -> Grade:
    """Accept one boxed answer that equals the gold answer; several only if each of them does."""
    gold = str(task.ground_truth).strip()
    if gold in ("", "-", "None"):
        raise GraderFault(f"expected a gold answer, got {task.ground_truth!r}")
    answers = boxed_answers(task.response)
    comparisons = [compare(gold, answer) for answer in answers]
    failed = [comparison.error for comparison in comparisons if comparison.error]
    if failed:
        logger.info("math-verify could not compare %r with the gold answer %r: %s", answers, gold, failed)
    if answers and all(comparison.equal for comparison in comparisons):
        result = Grade(Verdict.ACCEPTED, pred=answers[-1])
    elif len(answers) == 1:
        result = wrong_answer(
            task,
            pred=answers[0],
            mismatch=f"The final answer {clip(answers[0], 250)} is not correct.",
            gold=f"The correct answer is {clip(gold, 250)}.",
        )
    else:
        result = no_answer(task, HOW)
    return replace(result, comparison_failed=bool(failed))
