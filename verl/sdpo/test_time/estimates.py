"""discovery@k = P(the first success is among the first k attempts), estimated from the runs of one method.

Every question weighs the same. Within a question the estimate is unbiased in one of two ways:

- pass@k (Chen et al. 2021, arXiv 2107.03374), 1 - C(N-c, k) / C(N, k), when all its runs are pools: logs of attempts
  that are independent of each other and whose number N does not depend on their outcome.
- The share of runs whose first success came within k attempts, for all other runs. A run that stops at its first
  success reveals no more than when that was; c/N of such runs overestimates p: E[1/T] > p.

A run has no information beyond its end: an unsolved run is a failure up to its last attempt and unknown beyond, and a
pool has estimates for k up to its size. Beyond the first such end (`horizon`) a method has no estimate.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from verl.sdpo.runs.statistics import DRAWS, interval, resample


@dataclass(frozen=True)
class Run:
    """One search, read from its log."""

    path: Path
    method: str
    question: str
    seed: int
    model: str
    budget: int
    pool: bool
    """True if the search went on after a success."""
    tried: int
    confirmed: tuple[int, ...]
    """The attempts that passed the public and the hidden tests."""
    public: tuple[int, ...]
    """The attempts that passed the public tests."""

    @property
    def unfinished(self) -> bool:
        return self.tried < self.budget and (self.pool or not self.confirmed)


@dataclass(frozen=True)
class Band:
    """A percentile bootstrap over the runs (seeds) of each question."""

    level: float = 90
    """Share of the draws that lie inside, in per cent."""
    resample_questions: bool = False
    """Draw the questions as well. The paper's intervals fit fixed questions."""


def by_question(runs: Sequence[Run]) -> list[list[Run]]:
    questions = defaultdict(list)
    for run in runs:
        questions[run.question].append(run)
    return [questions[name] for name in sorted(questions)]


def is_pool(runs: Sequence[Run]) -> bool:
    return all(run.pool for run in runs)


def pass_at_k(attempts: int, successes: int, ks: Sequence[int]) -> np.ndarray:
    """1 - C(N-c, k) / C(N, k) for every k <= N, as 1 - prod_{i<c} (N-k-i) / (N-i)."""
    failing = np.ones(len(ks))
    for i in range(successes):
        failing *= np.maximum(attempts - np.asarray(ks) - i, 0) / (attempts - i)
    return 1 - failing


def horizon(runs: Sequence[Run], found: str = "confirmed") -> float:
    """Return the largest k at which every question has an estimate; infinite if all runs were solved."""
    return min(_horizon(question, found) for question in by_question(runs))


def _horizon(question: Sequence[Run], found: str) -> float:
    if is_pool(question):
        return sum(run.tried for run in question)
    return min((run.tried for run in question if not getattr(run, found)), default=np.inf)


def discovery(runs: Sequence[Run], ks: Sequence[int], found: str = "confirmed") -> np.ndarray:
    """Return discovery@k for every k, NaN beyond the horizon: (K,).

    Args:
        found: kind of success that counts: `confirmed`, or `public`.
    """
    means = [_rows(question, ks, found).mean(0) for question in by_question(runs)]
    return _known(np.mean(means, axis=0), runs, ks, found)


def band(runs: Sequence[Run], ks: Sequence[int], how: Band, seed: int = 0) -> np.ndarray:
    """Return the lower and upper end of the band for every k: (2, K).

    They are NaN beyond the horizon, and where there is nothing to draw from because every question has one run, or is
    one pool.
    """
    questions, rng = [_rows(question, ks, "confirmed") for question in by_question(runs)], np.random.default_rng(seed)
    count = len(questions)
    if max(map(len, questions)) == 1 and (count == 1 or not how.resample_questions):
        return np.full((2, len(ks)), np.nan)
    # How often each draw holds a question, and then each of the question's rows.
    copies = resample(rng, count) if how.resample_questions else np.ones((DRAWS, count), int)
    draws = np.zeros((DRAWS, len(ks)))
    for rows, copy in zip(questions, copies.T, strict=True):
        draws += resample(rng, len(rows), copy) @ rows / (len(rows) * count)
    return _known(interval(draws, how.level), runs, ks, "confirmed")


def _rows(question: Sequence[Run], ks: Sequence[int], found: str) -> np.ndarray:
    """Return the estimates of each independent observation of a question: (R, K), R = runs, or 1 for a pool."""
    if is_pool(question):
        successes = sum(len(getattr(run, found)) for run in question)
        return pass_at_k(sum(run.tried for run in question), successes, ks)[None]
    firsts = [min(getattr(run, found), default=np.inf) for run in question]
    return (np.array(firsts)[:, None] <= np.asarray(ks)).astype(float)


def _known(values: np.ndarray, runs: Sequence[Run], ks: Sequence[int], found: str) -> np.ndarray:
    return np.where(np.asarray(ks) <= horizon(runs, found), values, np.nan)
