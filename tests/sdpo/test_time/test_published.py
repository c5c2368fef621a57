"""The paper's numbers, as far as they can be checked against each other."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from verl.sdpo.test_time import published
from verl.sdpo.test_time.discovery import paper_discovery
from verl.sdpo.test_time.estimates import pass_at_k

# Table 10: mean attempts of best-of-k to the first success, counted as 2750 beyond the budget.
TABLE_10 = {
    **{1: 98, 43: 109, 46: 1466, 59: 123, 69: 134, 74: 1466, 86: 421, 95: 1466, 100: 294, 111: 95, 120: 327},
    **{125: 1466, 127: 368, 129: 173, 3: 2750, 10: 2750, 91: 2750, 92: 2750, 103: 2750},
}


def test_the_sets_are_those_of_the_paper():
    assert len(published.QUESTIONS["hard"]) == 19
    assert len(published.QUESTIONS["very-hard"]) == 9
    assert set(published.QUESTIONS["very-hard"]) < set(published.QUESTIONS["hard"])
    assert all(published.SUCCESSES[number] <= 1 for number in published.QUESTIONS["very-hard"])


@pytest.mark.parametrize("number", TABLE_10)
def test_the_successes_give_the_mean_attempts_of_table_10(number):
    """E[min(first, 2750)] = sum over k < 2750 of P(first > k). One success: 2750 - 2749 * 2750 / 2 / 2944 = 1466."""
    successes = published.SUCCESSES[number]
    failing = 1 - pass_at_k(published.POOL, successes, range(published.BUDGET))
    assert round(failing.sum()) == TABLE_10[number]


def test_the_successes_give_the_best_of_k_curve_of_figure_13():
    """Read off the figure at 250, ..., 2750. Of the very hard questions 4 of 9 have one success: 4 k / (9 * 2944)."""
    hard = [0.395, 0.504, 0.555, 0.587, 0.612, 0.632, 0.651, 0.669, 0.687, 0.705, 0.723]
    assert paper_discovery("hard", "best_of_k", published.FIGURE_13_K) == pytest.approx(hard, abs=0.001)
    very_hard = 4 * np.array(published.FIGURE_13_K) / (9 * 2944)
    assert paper_discovery("very-hard", "best_of_k", published.FIGURE_13_K) == pytest.approx(very_hard, abs=0.001)


@pytest.mark.parametrize("name", published.QUESTIONS)
@pytest.mark.parametrize("method", ["sdpo", "multi_turn"])
def test_figure_and_text_agree_at_the_budget(name, method):
    curve = published.FIGURE_13[name][method]
    assert len(curve) == len(published.FIGURE_13_K) == 11
    assert list(curve) == sorted(curve)
    assert curve[-1] == pytest.approx(published.AT_BUDGET[name][method], abs=0.004)


def test_what_is_not_published_is_unknown():
    values = paper_discovery("hard", "sdpo", [16, 250, 2750, 3000])
    assert values == pytest.approx([np.nan, 0.489, 0.78, np.nan], nan_ok=True)
    assert np.isnan(paper_discovery("hard", "best_of_k", [2945])).all()


def test_scripts_get_the_question_ids_without_an_installation():
    command = [sys.executable, "-I", "-S", published.__file__]
    done = subprocess.run([*command, "very-hard"], capture_output=True, text=True, timeout=60)
    assert done.stdout == "3 10 46 74 91 92 95 103 125\n"
    wrong = subprocess.run([*command, "easy"], capture_output=True, text=True, timeout=60)
    assert wrong.returncode == 1
    assert wrong.stderr == f"usage: {Path(published.__file__)} hard|very-hard\n"
