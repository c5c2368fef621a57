"""Comparators against the table of LiveCodeBench's measured behaviour (sandbox.md 5.1 to 5.4)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl.utils.reward_score.feedback.compare import stdout_official, stdout_paper, value_official, value_paper
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
