"""The layout of a multiple choice prompt tells nothing about the answer."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.sources import gpqa, mmlu_pro
from data.sources.catalog import load_catalog
from data.sources.prompts import options_alike

LETTERS = "ABCD"
TEXTS = ("Neon gas", "Argon gas", "Helium gas", "Krypton gas")
# Layouts that published data give to some options alone.
LAYOUTS = ("{}", " {}", "{} ", "{}.", "{}\n", '"{}"', "'{}'.", "\t{}", "\u201c{}\u201d")


def mmlu_pro_row(options: list[str], right: int) -> dict:
    return {"question": "Which?", "options": options, "answer": LETTERS[right], "category": "physics"}


def gpqa_row(options: list[str], right: int) -> dict:
    wrong = [option for i, option in enumerate(options) if i != right]
    incorrect = {f"Incorrect Answer {number}": option for number, option in enumerate(wrong, start=1)}
    return {"Question": "Which?", "Record ID": "r", "Correct Answer": options[right], **incorrect}


# SciKnowEval's prompts are those of the published splits, character by character.
SOURCES = {
    "gpqa": (gpqa, gpqa_row),
    "mmlu_pro": (mmlu_pro, mmlu_pro_row),
}


def prompt(family: str, options: list[str], right: int) -> str:
    module, row = SOURCES[family]
    entry = next(entry for entry in load_catalog().values() if entry.family == family)
    return module.to_record(row(options, right), entry)["prompt"]


def listed(prompt: str) -> list[str]:
    """Return the texts of the options in a prompt."""
    return re.findall(
        r"(?:(?<=\n)|(?<=Options: )|(?<= ))[A-D][.:)] (.*?)(?= [A-D]\) |\n|$)", prompt[prompt.index("Which?") :]
    )


def test_every_multiple_choice_source_is_here():
    kinds = {entry.family for entry in load_catalog().values() if entry.kind in ("mcq", "gpqa", "mmlu_pro")}
    assert kinds - SOURCES.keys() == {"sciknoweval"}


@pytest.mark.parametrize("family", SOURCES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("right", range(4))
def test_an_option_with_a_layout_of_its_own_looks_like_the_others(family, layout, right):
    marked = [layout.format(text) if i == right else text for i, text in enumerate(TEXTS)]
    assert prompt(family, marked, right) == prompt(family, list(TEXTS), right)


@pytest.mark.parametrize("family", SOURCES)
@given(st.permutations(range(4)), st.lists(st.sampled_from(LAYOUTS), min_size=4, max_size=4))
def test_a_shuffle_of_the_options_leaves_no_trace(family, order, layouts):
    laid_out = [layout.format(text) for layout, text in zip(layouts, TEXTS, strict=True)]
    shuffled = prompt(family, [laid_out[i] for i in order], 0)
    assert len(listed(shuffled)) == 4
    # The same four texts, wherever they stand and whichever is right.
    assert sorted(listed(shuffled)) == sorted(listed(prompt(family, laid_out, 3)))


@pytest.mark.parametrize(
    ("options", "alike"),
    [
        (["3", " 4", "5", "6 "], ["3", "4", "5", "6"]),
        (["It rises.", "It falls", "It stays."], ["It rises", "It falls", "It stays"]),
        (["It rises.", "It falls."], ["It rises.", "It falls."]),
        (["1, 2, ...", "1"], ["1, 2, ...", "1"]),
        (['"a"', "'b'"], ['"a"', "'b'"]),
        (["'a'", "b"], ["a", "b"]),
        (["'a'", "a"], ["'a'", "a"]),
        (["x.", "x"], ["x.", "x"]),
        ([".", "x"], [".", "x"]),
        (["a  b\nc", "d"], ["a b c", "d"]),
    ],
)
def test_options_alike(options, alike):
    assert options_alike(options) == alike
