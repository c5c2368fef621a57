"""discovery@k and its bands, against numbers by hand."""

from itertools import combinations, product
from math import comb
from pathlib import Path

import numpy as np
import pytest

from verl.sdpo.test_time.estimates import Band, Run, band, discovery, horizon, pass_at_k


def run(question, seed=0, *, confirmed=None, tried=None, public=None, method="sdpo", budget=100):
    """A search that stops at its first confirmed attempt."""
    found = (confirmed,) if confirmed else ()
    passed = (public,) if public else found
    path = Path(f"{question}_{seed}")
    return Run(path, method, question, seed, "model", budget, False, tried or confirmed or budget, found, passed)


def pool(question, seed=0, *, confirmed=(), tried=100, budget=100):
    return Run(Path("pool"), "best_of_k", question, seed, "model", budget, True, tried, confirmed, confirmed)


# a: solved at 2 and at 8; b: solved at 4 and never; c: never, twice.
RUNS = [
    run("a", 0, confirmed=2),
    run("a", 1, confirmed=8),
    run("b", 0, confirmed=4),
    run("b", 1),
    run("c", 0),
    run("c", 1, public=50),
]


def test_discovery_is_the_mean_over_questions_of_the_mean_over_their_runs():
    """k=1: none. k=2: a 1/2, b 0, c 0: 1/6. k=4: a 1/2, b 1/2: 1/3. k=8: a 1, b 1/2: 1/2. No more until 100."""
    assert discovery(RUNS, [1, 2, 4, 8, 100]) == pytest.approx([0, 1 / 6, 1 / 3, 1 / 2, 1 / 2])


def test_a_question_with_more_runs_weighs_no_more():
    runs = [*RUNS, *(run("c", seed) for seed in range(2, 20))]
    assert discovery(runs, [8]) == pytest.approx([1 / 2])


def test_public_successes_are_counted_apart():
    assert discovery(RUNS, [50], "public") == pytest.approx([(1 + 1 / 2 + 1 / 2) / 3])


def test_a_stopped_run_says_nothing_beyond_its_last_attempt():
    runs = [*RUNS[:-1], run("c", 1, tried=5)]
    assert horizon(RUNS) == 100
    assert horizon(runs) == 5
    assert discovery(runs, [4, 5, 6, 8]) == pytest.approx([1 / 3, 1 / 3, np.nan, np.nan], nan_ok=True)
    assert [value.unfinished for value in runs] == [False] * 5 + [True]


def test_runs_that_were_all_solved_are_known_at_every_k():
    assert discovery([run("a", confirmed=3)], [2, 3, 10**6]).tolist() == [0, 1, 1]


# pass@k


def test_pass_at_k_is_the_share_of_the_subsets_with_a_success():
    """All 3-subsets of 7 attempts but those of the 5 failures: 1 - 10/35."""
    assert pass_at_k(7, 2, [3]) == pytest.approx([25 / 35])
    for n, c in product(range(1, 8), range(4)):
        if c <= n:
            subsets = [list(combinations(range(n), k)) for k in range(1, n + 1)]
            shares = [np.mean([min(subset) < c for subset in of_size_k]) for of_size_k in subsets]
            assert pass_at_k(n, c, range(1, n + 1)) == pytest.approx(shares)


def test_pass_at_k_of_a_pool_of_the_papers_size_is_exact():
    """Compared with the binomial coefficients themselves, as integers of hundreds of digits."""
    ks = [1, 64, 1000, 2750, 2944]
    exact = [1 - comb(2944 - 29, k) / comb(2944, k) if k <= 2915 else 1.0 for k in ks]
    assert pass_at_k(2944, 29, ks) == pytest.approx(exact, rel=1e-10)


def test_the_attempts_of_all_pools_of_a_question_are_one_pool():
    """Successes 3 in 10 and 1 in 20 attempts: 4 in 30, so pass@1 is 4/30, and k is known up to 30."""
    runs = [pool("a", 0, confirmed=(2, 5, 6), tried=10), pool("a", 1, confirmed=(19,), tried=20)]
    assert discovery(runs, [1, 30, 31]) == pytest.approx([4 / 30, 1, np.nan], nan_ok=True)
    assert horizon(runs) == 30


def test_a_run_that_stopped_at_its_success_is_no_pool():
    """One success in 4 attempts is no pass@1 of 1/4: the estimate is 0 before the first success and 1 from it on."""
    assert discovery([run("a", confirmed=4)], [1, 3, 4]).tolist() == [0, 0, 1]
    mixed = [run("a", 0, confirmed=4), pool("a", 1, confirmed=(2, 7))]
    assert discovery(mixed, [1, 2, 4]).tolist() == [0, 1 / 2, 1]


def test_both_estimates_are_right_on_average():
    """p = 0.1, k = 5: 1 - 0.9^5 = 0.40951. c/N of stopped runs is E[1/T] = -p ln p / (1-p) = 0.256, not 0.1."""
    rng, truth = np.random.default_rng(0), 1 - 0.9**5
    firsts = rng.geometric(0.1, 20_000)
    stopped = [run("a", seed, confirmed=int(first), budget=10**6) for seed, first in enumerate(firsts)]
    assert discovery(stopped, [5]) == pytest.approx([truth], abs=0.01)
    pools = [pass_at_k(20, count, [5])[0] for count in rng.binomial(20, 0.1, 20_000)]
    assert np.mean(pools) == pytest.approx(truth, abs=0.01)
    naive = [pass_at_k(int(first), 1, [1])[0] for first in firsts]
    assert np.mean(naive) == pytest.approx(0.256, abs=0.01)


def test_a_pool_is_finished_when_its_budget_is_used_up_only():
    assert pool("a", confirmed=(3,), tried=50).unfinished
    assert not pool("a", tried=100).unfinished
    assert not run("a", confirmed=3).unfinished


# Bands

KS = range(1, 101)
MANY = [run(f"q_{i}", seed, confirmed=1 + (7 * i + 13 * seed) % 90) for i in range(11) for seed in range(5)]


def test_the_bootstrap_repeats_and_depends_on_its_seed():
    np.testing.assert_array_equal(band(MANY, KS, Band()), band(MANY, KS, Band()))
    assert not np.array_equal(band(MANY, KS, Band()), band(MANY, KS, Band(), seed=1))


def test_the_band_holds_the_estimate_and_grows_with_disagreement():
    low, high = band(RUNS, [1, 8], Band())
    assert low[0] == high[0] == 0
    assert low[1] < 1 / 2 < high[1]


@pytest.mark.parametrize(("level", "ends"), [(90, (2 / 8, 6 / 8)), (95, (1 / 8, 7 / 8))])
def test_the_band_of_one_question_is_the_binomial_one(level, ends):
    """4 of 8 runs solved: P(at most 1 of 8 drawn is solved) = 9/256 = 3.5 %, at most 2: 37/256 = 14.5 %. So 5 % are
    reached at 2 and 2.5 % at 1."""
    runs = [run("a", seed, confirmed=1 if seed < 4 else None) for seed in range(8)]
    assert band(runs, [1], Band(level))[:, 0] == pytest.approx(ends)


def test_seeds_are_drawn_within_fixed_questions_unless_asked():
    """One question always solved, one never: fixed, the mean is 1/2 in every draw. With questions drawn it is 0, 1/2 or
    1 with 1/4, 1/2, 1/4, so 90 % reach from 0 to 1."""
    runs = [run("a", seed, confirmed=1) for seed in range(3)] + [run("b", seed) for seed in range(3)]
    assert band(runs, [1], Band())[:, 0] == pytest.approx([1 / 2, 1 / 2])
    assert band(runs, [1], Band(resample_questions=True))[:, 0] == pytest.approx([0, 1])


def test_seeds_are_drawn_within_drawn_questions_too():
    """Two questions like that of eight runs above, so a binomial of 16 in both ways: P(at most 5) = 10.5 %, P(at most
    4) = 3.8 %."""
    runs = [run(name, seed, confirmed=1 if seed < 4 else None) for name in "ab" for seed in range(8)]
    for how in (Band(), Band(resample_questions=True)):
        assert band(runs, [1], how)[:, 0] == pytest.approx([5 / 16, 11 / 16])


@pytest.mark.parametrize("runs", [[run("a", confirmed=1), run("b")], [pool("a"), pool("b", 0), pool("b", 1)]])
def test_one_run_or_pool_per_question_has_no_band(runs):
    assert np.isnan(band(runs, [1], Band())).all()
    assert not np.isnan(band(runs, [1], Band(resample_questions=True))).any()


def test_a_band_ends_where_the_curve_ends():
    runs = [*RUNS[:-1], run("c", 1, tried=5)]
    assert np.isnan(band(runs, [5, 6], Band())).tolist() == [[False, True]] * 2
