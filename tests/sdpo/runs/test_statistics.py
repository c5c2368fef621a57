"""The bootstrap against numbers by hand."""

import numpy as np
import pytest

from verl.sdpo.runs.statistics import DRAWS, interval, resample


def test_a_draw_holds_as_many_items_as_there_are():
    counts_BN = resample(np.random.default_rng(0), 7)
    assert counts_BN.shape == (DRAWS, 7)
    assert (counts_BN.sum(1) == 7).all()


def test_a_draw_of_several_samples():
    """In a bootstrap of two levels a group that was drawn twice has twice as many items, and one not drawn has none."""
    copies_B = np.arange(DRAWS) % 3
    assert resample(np.random.default_rng(0), 4, copies_B).sum(1).tolist() == (4 * copies_B).tolist()


def test_generators_of_one_seed_draw_the_same():
    first, second, other = (resample(np.random.default_rng(seed), 9) for seed in (0, 0, 1))
    assert (first == second).all() and (first != other).any()


def test_the_interval_of_a_proportion():
    """50 of 100: 0.5 +- 1.96 sqrt(0.25 / 100) = 0.5 +- 0.098."""
    values = np.array([1.0, 0.0] * 50)
    low, high = interval(resample(np.random.default_rng(0), 100) @ values / 100)
    assert low == pytest.approx(0.402, abs=0.011) and high == pytest.approx(0.598, abs=0.011)


def test_the_interval_is_along_the_first_axis():
    """Per cent 5 and 95 of 0..100, and of ten times these."""
    estimates = np.arange(101.0)[:, None] * [1, 10]
    assert interval(estimates, level=90).tolist() == [[5.0, 50.0], [95.0, 950.0]]
