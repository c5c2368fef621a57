"""Comparators: does what a program printed or returned count as the expected output?

They run in the grading process, on text and decoded values; model code never sees an expected output. The official
rules are LiveCodeBench's (`lcb_runner/evaluation/testing_util.py` at 28fef95), the paper's those of the SDPO authors.
The script's are the official ones with a contest judge's tolerance for decimals, and tuples taken as lists everywhere.
"""

import json
import math
import re
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

import numpy as np

from verl.utils.reward_score.feedback.sandbox import Opaque

TOLERANCE = 1e-6
"""Relative or absolute, as most contest judges take it. Only what the *expected* output writes as a decimal has it."""

_DECIMAL = re.compile(r"[+-]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][+-]?\d+)?", re.ASCII)


def stdout_script(printed: str, expected: str) -> bool:
    """`stdout_official`, where a number also matches an expected decimal within `TOLERANCE`."""
    got, want = (text.strip().split("\n") for text in (printed, expected))
    return len(got) == len(want) and all(map(lines_close, got, want))


def lines_close(got: str, want: str) -> bool:
    """One line of `stdout_script`."""
    if lines_match(got, want):
        return True
    tokens, expected = got.split(), want.split()
    if len(tokens) != len(expected) or not any(map(_DECIMAL.fullmatch, expected)):
        return False
    return all(a == b or (_DECIMAL.fullmatch(b) and _close(a, float(b))) for a, b in zip(tokens, expected, strict=True))


def value_script(returned: Any, expected: Any) -> bool:
    """`value_official` at every depth: tuples are lists, and numbers match an expected float within `TOLERANCE`."""
    try:
        if isinstance(expected, float) and isinstance(returned, int | float | Fraction | Decimal):
            return returned == expected or _close(returned, expected)
        if isinstance(expected, list) and isinstance(returned, list | tuple):
            return len(returned) == len(expected) and all(map(value_script, returned, expected))
        if isinstance(expected, dict) and isinstance(returned, dict):
            return returned.keys() == expected.keys() and all(
                value_script(returned[key], expected[key]) for key in expected
            )
    except RecursionError:
        return False
    return value_official(returned, expected)


def _close(got: Any, want: float) -> bool:
    try:
        return math.isfinite(want) and math.isclose(float(got), want, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    except (ValueError, OverflowError):  # no number, or a larger one than floats hold
        return False


def stdout_official(printed: str, expected: str) -> bool:
    """Compare line by line, stripped; two lines also match when all their tokens are equal numbers."""
    got, want = (text.strip().split("\n") for text in (printed, expected))
    return len(got) == len(want) and all(map(lines_match, got, want))


def lines_match(got: str, want: str) -> bool:
    """One line of `stdout_official`."""
    if got.strip() == want.strip():
        return True
    try:
        return [Decimal(token) for token in got.split()] == [Decimal(token) for token in want.split()]
    except (InvalidOperation, UnicodeError):  # no numbers, a signalling NaN, a lone surrogate
        return False


def stdout_paper(printed: str, expected: str) -> bool:
    """Compare as one line of text. One trailing dash of the expected output does not count."""
    got, want = (text.strip().replace("\n", " ") for text in (printed, expected))
    return got == want.removesuffix("-").strip()


def value_official(returned: Any, expected: Any) -> bool:
    """Python's `==`, with an outermost tuple taken as a list. Numpy arrays count only if they have one element."""
    try:
        if isinstance(returned, Opaque) and returned.content is not None:
            # Only then is an array built: one long text among many would be paid for with its length for each.
            if not _is_single(returned.content):
                return False
            equal = np.asarray(returned.content) == expected
            return np.size(equal) == 1 and bool(np.all(equal))
        return (list(returned) if isinstance(returned, tuple) else returned) == expected
    except (RecursionError, ValueError):  # nested too deeply; shapes that numpy cannot compare
        return False


def _is_single(content: Any) -> bool:
    """Return whether nested lists hold exactly one item."""
    while isinstance(content, list | tuple) and len(content) == 1:
        content = content[0]
    return not isinstance(content, list | tuple)


def value_paper(returned: Any, expected: Any) -> bool:
    """Compare as JSON text: tuples are lists at every depth, but 3 is not 3.0 and True is not 1."""
    try:
        return json.dumps(returned, sort_keys=True) == json.dumps(expected, sort_keys=True)
    except (TypeError, ValueError, RecursionError):  # no JSON value
        return False
