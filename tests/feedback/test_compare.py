"""Comparators against the table of LiveCodeBench's measured behaviour (sandbox.md 5.1 to 5.4)."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl.utils.reward_score.feedback.compare import (
    stdout_official,
    stdout_paper,
    stdout_script,
    value_official,
    value_paper,
    value_script,
)
from verl.utils.reward_score.feedback.sandbox import Opaque

OFFICIAL_ACCEPTS = [
    ("  1 2  \n3 ", "1 2\n3"),
    ("\n\n1\n2\n\n", "1\n2"),
    ("1\r\n2\r\n", "1\n2"),
    ("1  2\t3", "1 2 3"),
    ("1.0", "1"),
    ("1.50", "1.5"),
    ("1e3", "1000"),
    ("+1", "1"),
    ("01", "1"),
    ("1_000", "1000"),
    ("\uff11\uff12", "12"),
    ("-0", "0"),
    ("inf", "Infinity"),
    ("nan", "nan"),
    ("", "  \n"),
    ("1e999999999", "10e999999998"),
]
OFFICIAL_REJECTS = [
    ("a  b", "a b"),
    ("a\tb", "a b"),
    ("1\n\n2", "1\n2"),
    ("yes", "Yes"),
    ("0.1", "0.10000000001"),
    ("ans 1.0", "ans 1"),
    ("NaN", "nan"),
    ("1\r2", "1\n2"),
    ("1" * 40, "1" * 39 + "2"),
    ("1\n2\n3", "1 2 3"),
    ("sNaN", "1"),
    ("sNaN", "nan"),
    ("", "1"),
    ("1", ""),
    ("\ud800", "1"),
]


@pytest.mark.parametrize(("printed", "expected"), OFFICIAL_ACCEPTS)
def test_official_stdout_accepts(printed, expected):
    assert stdout_official(printed, expected)


@pytest.mark.parametrize(("printed", "expected"), OFFICIAL_REJECTS)
def test_official_stdout_rejects(printed, expected):
    assert not stdout_official(printed, expected)


@given(st.text(), st.text())
def test_official_stdout_is_reflexive_and_never_raises(a, b):
    assert stdout_official(a, a)
    assert isinstance(stdout_official(a, b), bool)


@given(st.lists(st.integers(), min_size=1), st.integers(min_value=0), st.integers(min_value=1))
def test_official_stdout_notices_every_changed_number(numbers, position, difference):
    changed = list(numbers)
    changed[position % len(numbers)] += difference
    assert not stdout_official(" ".join(map(str, changed)), " ".join(map(str, numbers)))


@pytest.mark.parametrize(
    ("returned", "expected", "equal"),
    [
        ([1, 2], [1, 2], True),
        ((1, 2), [1, 2], True),
        ([(1, 2)], [[1, 2]], False),
        (True, 1, True),
        (1.0, 1, True),
        (0.1 + 0.2, 0.3, False),
        ("1", 1, False),
        (None, None, True),
        ({1, 2}, [1, 2], False),
        ({"a": 1}, {"a": 1.0}, True),
        (Opaque("collections.deque"), [1, 2], False),
        (Opaque("Sneaky"), Opaque("Sneaky").type_name, False),
        (Opaque("numpy.ndarray", [5]), [5], True),
        (Opaque("numpy.ndarray", [5]), 5, True),
        (Opaque("numpy.ndarray", [6]), [5], False),
        (Opaque("numpy.ndarray", [1, 2]), [1, 2], False),
        (Opaque("numpy.ndarray", [1, 2]), [1, 2, 3], False),
        (Opaque("numpy.ndarray", []), [], False),
    ],
)
def test_official_values(returned, expected, equal):
    assert value_official(returned, expected) is equal


def test_official_values_survive_deep_nesting():
    deep, other = [], []
    for _ in range(100_000):
        deep, other = [deep], [other]
    assert value_official(deep, other) is False


@pytest.mark.parametrize(
    ("printed", "expected", "equal"),
    [
        ("1 2", "1\n2", True),
        ("1 \n2", "1\n2", False),
        ("1.0", "1", False),
        ("5", "5-", True),
        ("5-", "5-", False),
        (" 5\n", "5", True),
    ],
)
def test_paper_stdout(printed, expected, equal):
    assert stdout_paper(printed, expected) is equal


@pytest.mark.parametrize(
    ("returned", "expected", "equal"),
    [
        ([(1, 2)], [[1, 2]], True),
        (3.0, 3, False),
        (True, 1, False),
        ({"b": 1, "a": 2}, {"a": 2, "b": 1}, True),
        ({1, 2}, [1, 2], False),
        (Opaque("numpy.ndarray", [5]), [5], False),
    ],
)
def test_paper_values(returned, expected, equal):
    assert value_paper(returned, expected) is equal


@pytest.mark.parametrize(
    ("printed", "expected", "equal"),
    [
        ("0.3333333", "0.333333333333", True),
        ("0.33333", "0.333333333333", False),
        ("1000001.0", "1000000.0", True),
        ("1000002.0", "1000000.0", False),
        ("0.0000009", "0.0", True),
        ("0.0000011", "0.0", False),
        ("1", "1.0000005", True),
        ("1.0000005", "1", False),
        ("1000001", "1000000", False),
        ("1e-9", "1.5E-9", True),
        ("Case #1: 0.5000001", "Case #1: 0.5", True),
        ("Case #2: 0.5", "Case #1: 0.5000001", False),
        ("2 0.5000001", "2 0.5", True),
        ("3 0.5000001", "2 0.5", False),
        ("0.5000001 1", "0.5", False),
        ("0.5000001\n2", "0.5\n2", True),
        ("nan", "0.5", False),
        ("inf", "1e400", False),
        ("nan", "nan", True),
        ("1.2.4", "1.2.3", False),
        ("0x1p-1", "0.5000001", False),
        ("half", "0.5", False),
        ("yes  no", "yes no", False),
    ],
)
def test_a_scripts_decimals_have_a_judges_tolerance(printed, expected, equal):
    """1e-6, relative to the larger number or absolute: |1000001 - 1000000| = 1 <= 1e-6 * 1000001."""
    assert stdout_script(printed, expected) is equal


@pytest.mark.parametrize(
    ("returned", "expected", "equal"),
    [
        (0.1 + 0.2, 0.3, True),
        (0.30001, 0.3, False),
        (3, 3.0000001, True),
        (3.0000001, 3, False),
        (Fraction(1, 3), 0.3333333, True),
        (Fraction(1, 2), 0.5, True),
        (Decimal("0.1"), 0.1, True),
        (Decimal("NaN"), 0.1, False),
        (10**400, 1.5, False),
        ([(1, 2), (3, 4)], [[1, 2], [3, 4]], True),
        ((1, (2, [0.1 + 0.2])), [1, [2, [0.3]]], True),
        ([(1, 2)], [[1, 2], []], False),
        ([(2, 1)], [[1, 2]], False),
        ({"a": (0.1 + 0.2,)}, {"a": [0.3]}, True),
        ({"a": 1}, {"b": 1}, False),
        ("0.3", 0.3, False),
        ([1, 2], "12", False),
        (True, 1, True),
        (None, None, True),
        (Opaque("numpy.ndarray", [5]), [5], True),
    ],
)
def test_script_values(returned, expected, equal):
    assert value_script(returned, expected) is equal


def test_script_values_survive_deep_nesting():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    assert value_script(deep, [deep, 1]) is False
    assert isinstance(value_script(deep, [deep[0]]), bool)
