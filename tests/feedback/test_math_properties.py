"""Properties of the comparison of math answers: what differs is never equal, what is only rewritten always is."""

import random
from fractions import Fraction
from math import comb, factorial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl.utils.reward_score.feedback import math_answer

LETTERS = "abcdefghjklmnopqrstuvwxyz"
GREEK = ["gamma", "delta", "theta", "lambda", "xi", "sigma", "phi", "psi", "omega"]


def equal(gold: str, answer: str) -> bool:
    return math_answer.compare(gold, answer).equal


@pytest.mark.parametrize("letter", "abcdefghijklmnopqrstuvwxyz")
@pytest.mark.parametrize("form", ["%s", "%s+2", r"\frac{%s}{3}", "%s^2", "(%s, 1)", "%s_1", r"\sqrt{%s}", "k%s"])
def test_letters_that_differ_by_case_alone_are_different(letter, form):
    assert not equal(form % letter, form % letter.upper())
    assert not equal(form % letter.upper(), form % letter)


@pytest.mark.parametrize("letter", GREEK)
def test_greek_letters_that_differ_by_case_alone_are_different(letter):
    small, capital = f"\\{letter}", f"\\{letter.capitalize()}"
    assert not equal(small, capital) and not equal(capital, small) and not equal(f"2{small}+1", f"2{capital}+1")
    assert equal(f"2{capital}+1", f"1+2{capital}")


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(LETTERS), st.sampled_from(LETTERS), st.integers(2, 9), st.integers(2, 4))
def test_formulas_that_differ_by_case_alone_are_different(a, b, factor, power):
    for form in ("{A}{a}", r"\frac{{{A}}}{{{a}}}", "{A}^{k}-{n}{A}{b}", r"\pi({A}^2-{a}^2)"):
        fill = {"n": factor, "k": power}
        gold = form.format(a=a, A=a.upper(), b=b, **fill)
        assert not equal(gold, form.format(a=a.upper(), A=a, b=b, **fill)) or form == "{A}{a}"
        assert not equal(gold, form.format(a=a, A=a, b=b, **fill))
        assert equal(gold, form.format(a=a, A=a.upper(), b=b, **fill) + "+0")


def tiny(rng: random.Random) -> tuple[str, Fraction]:
    """Return a random number below 1e-15, as text and exactly."""
    base, power = rng.randint(2, 9), rng.randint(60, 400)
    n = rng.randint(50, 80)
    k = rng.randint(20, n - 20)
    return rng.choice(
        [
            (f"{base}^{{-{power}}}", Fraction(1, base**power)),
            (rf"\frac{{1}}{{{base}^{{{power}}}}}", Fraction(1, base**power)),
            (rf"\left(\frac{{{base}}}{{11}}\right)^{{{power}}}", Fraction(base, 11) ** power),
            (rf"\frac{{{k}!}}{{{n}!}}", Fraction(factorial(k), factorial(n))),
            (rf"\binom{{{n}}}{{{k}}}{base}^{{-{power}}}", Fraction(comb(n, k), base**power)),
        ]
    )


# Places where a tiny number stands beside large ones.
PLACES = [
    "%s",
    "1-(%s)",
    r"\frac{1+(%s)}{2}",
    r"\pi+(%s)",
    r"\sqrt{2}\cdot(%s)",
    "x+(%s)",
    "x(%s)",
    "(%s, 3)",
    "[%s, 3]",
    r"\{%s, 3\}",
    "x = %s",
    "x > %s",
    r"\begin{pmatrix}%s\\3\end{pmatrix}",
]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9), st.sampled_from(PLACES))
def test_numbers_that_differ_by_little_are_different(seed, place):
    rng = random.Random(seed)
    (one, value), (other, second) = tiny(rng), tiny(rng)
    if value != second:
        assert not equal(place % one, place % other)
    assert not equal(place % one, place % "0")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**9), st.sampled_from(PLACES))
def test_tiny_numbers_written_in_two_ways_are_equal(seed, place):
    text, value = tiny(random.Random(seed))
    if value.denominator < 10**300:
        assert equal(place % text, place % rf"\frac{{{value.numerator}}}{{{value.denominator}}}")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"e^{\pi\sqrt{163}}", "262537412640768744"),
        (r"\sin(2017\sqrt[5]{2})", "-1"),
        (r"1+e^{-1000}", "1"),
        (r"\sqrt{10^{100}+1}", "10^{50}"),
        (r"\pi\cdot 10^{-40}", r"\frac{22}{7}\cdot 10^{-40}"),
        (r"\frac{\ln(640320^3+744)}{\sqrt{163}}", r"\pi"),
        (r"10^{-30}i", "0"),
    ],
)
def test_numbers_that_agree_in_many_digits_are_different(one, other):
    assert not equal(one, other) and not equal(other, one)


REWRITINGS = [
    ("{a}x+{b}x", "{ab}x"),
    ("{b}x+{a}", "{a}+{b}x"),
    ("(x+{a})(x-{a})", "x^2-{a}^2"),
    ("(x+{a})^2", "x^2+2\\cdot {a}x+{a}^2"),
    (r"\frac{{{a}x}}{{{b}}}", r"\frac{{{a}}}{{{b}}}x"),
    (r"\sqrt{{{a}}}\sqrt{{{b}}}", r"\sqrt{{{a}\cdot {b}}}"),
    (r"\frac{{1}}{{\sqrt{{{a}}}+1}}", r"\frac{{\sqrt{{{a}}}-1}}{{{a}-1}}"),
    (r"\ln {a}+\ln {b}", r"\ln({a}\cdot {b})"),
    (r"\log_{{{a}}} {b}", r"\frac{{\ln {b}}}{{\ln {a}}}"),
    (r"{a}\sin^2 x+{a}\cos^2 x", "{a}"),
    (r"\sin 2x", r"2\sin x\cos x"),
    (r"\cos\frac{{\pi}}{{{a}}}", r"\sin\left(\frac{{\pi}}{{2}}-\frac{{\pi}}{{{a}}}\right)"),
    (r"\frac{{{a}}}{{x}}-\frac{{{b}}}{{y}}", r"\frac{{{a}y-{b}x}}{{xy}}"),
    (r"\binom{{{ab}}}{{{a}}}", r"\binom{{{ab}}}{{{b}}}"),
    ("({a}, {b})", r"\left( \frac{{{a}\cdot 2}}{{2}}, {b}\right)"),
    ("x={a}, x={b}", "{b}, {a}"),
    ("{a}<x", "x>{a}"),
    ("x<-{a}\\text{{ or }}x>{b}", r"(-\infty,-{a})\cup({b},\infty)"),
    (r"\sqrt[3]{{-{a}}}", r"-\sqrt[3]{{{a}}}"),
    (r"e^{{i\pi/{a}}}", r"\cos\frac{{\pi}}{{{a}}}+i\sin\frac{{\pi}}{{{a}}}"),
    (r"R^2-{a}Rr", r"R(R-{a}r)"),
]


@pytest.mark.parametrize(("one", "other"), REWRITINGS)
@pytest.mark.parametrize(("a", "b"), [(2, 3), (5, 12), (7, 30)])
def test_rewritten_answers_are_equal(one, other, a, b):
    numbers = {"a": a, "b": b, "ab": a + b}
    assert equal(one.format(**numbers), other.format(**numbers))
    assert equal(other.format(**numbers), one.format(**numbers))


@pytest.mark.parametrize(("one", "other"), REWRITINGS)
def test_rewritten_answers_with_another_number_are_different(one, other):
    changed = other.format(a=7, b=30, ab=40) if "{ab}" in other else other.format(a=11, b=30, ab=37)
    if changed != other.format(a=7, b=30, ab=37):
        assert not equal(one.format(a=7, b=30, ab=37), changed)
