"""discovery@k: the share of questions that are solved within k attempts, for every method that left logs.

    python -m verl.sdpo.test_time.discovery outputs/ttt [--plot IMAGE]

Solved means confirmed: a response passed the public and the hidden tests. Several runs (seeds) of a question are
averaged first, then the questions. Bands are 95 % percentile intervals of a bootstrap that resamples questions, and
within each question its runs.

What a run says ends where it was stopped: an unsolved run counts as a failure up to its last attempt, and says nothing
beyond. So a method has a discovery@k only up to the shortest of its unsolved runs; beyond, the table shows a dash and
the curve ends. Runs that were stopped before their budget are counted in the column `unfinished`.
"""

import argparse
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from verl.sdpo.test_time.grading import SUCCESS
from verl.sdpo.test_time.log import SUFFIX, read_log

TABLE_K = (16, 64, 256, 1000, 2750)
DRAWS = 2000
BAND = (2.5, 97.5)
LABELS = {"sdpo": "SDPO", "best_of_k": "best-of-k", "multi_turn": "multi-turn"}
# Test-time results of arXiv 2601.20802 (section 5), Qwen3-8B on LiveCodeBench v6, discovery@2750 in per cent.
PAPER = {
    "hard, 19 questions": {"sdpo": 78.0, "best_of_k": 72.3, "multi_turn": 68.4},
    "very hard, 9 of them": {"sdpo": 53.2, "best_of_k": 41.5, "multi_turn": 35.6},
}


@dataclass(frozen=True)
class Run:
    """One search, as its log tells it."""

    method: str
    question: str
    seed: int
    model: str
    budget: int
    tried: int
    confirmed: int | None
    """The attempt that was confirmed."""
    public: int | None
    """The first attempt that passed the public tests."""

    @property
    def unfinished(self) -> bool:
        return self.confirmed is None and self.tried < self.budget


def read_run(path: Path) -> Run:
    config, records = read_log(path)
    first = [
        next((record["attempt"] for record in records if success(record)), None)
        for success in (lambda record: record["confirmed"], lambda record: record["reward"] >= SUCCESS)
    ]
    names = (config["method"], config["question_id"], config["seed"], config["model"], config["budget"])
    return Run(*names, len(records), *first)


def find_runs(places: Sequence[Path]) -> dict[str, list[Run]]:
    """The runs of each method, from log files and from all logs below folders.

    Raises:
        ValueError: there are none, two logs are of the same run, or not all are of the same model.
    """
    files = [file for place in places for file in (sorted(place.rglob(f"*{SUFFIX}")) if place.is_dir() else [place])]
    runs: dict[tuple, Run] = {}
    sources: dict[tuple, Path] = {}
    for file in dict.fromkeys(files):
        run = read_run(file)
        key = (run.method, run.question, run.seed)
        if key in runs:
            raise ValueError(f"{sources[key]} and {file} both are method, question and seed {key}. Leave one out.")
        runs[key], sources[key] = run, file
    models = sorted({run.model for run in runs.values()})
    if len(models) != 1:
        raise ValueError(
            f"{', '.join(map(str, places))}: found {len(runs)} logs (*{SUFFIX}) of the models {models}, expected logs "
            "of one model. Name the folders or files of one experiment."
        )
    methods = defaultdict(list)
    for run in runs.values():
        methods[run.method].append(run)
    return {method: methods[method] for method in sorted(methods, key=list(LABELS).index)}


def horizon(runs: Sequence[Run], found: str) -> float:
    """The largest k of which every run tells whether it was solved by then; infinite if all were."""
    return min((run.tried for run in runs if getattr(run, found) is None), default=np.inf)


def discovery(runs: Sequence[Run], ks: Sequence[int], found: str = "confirmed") -> np.ndarray:
    """discovery@k for every k, NaN beyond the horizon."""
    return _beyond(np.mean([rows.mean(0) for rows in _solved(runs, ks, found)], axis=0), runs, ks, found)


def bootstrap(runs: Sequence[Run], ks: Sequence[int], seed: int = 0) -> np.ndarray:
    """Lower and upper end of the band for every k, NaN beyond the horizon: (2, len(ks))."""
    questions, rng = _solved(runs, ks, "confirmed"), np.random.default_rng(seed)
    draws = np.empty((DRAWS, len(ks)))
    for draw in draws:
        chosen = [questions[i] for i in rng.integers(len(questions), size=len(questions))]
        draw[:] = np.mean([rows[rng.integers(len(rows), size=len(rows))].mean(0) for rows in chosen], axis=0)
    return _beyond(np.percentile(draws, BAND, axis=0), runs, ks, "confirmed")


def _solved(runs: Sequence[Run], ks: Sequence[int], found: str) -> list[np.ndarray]:
    """Per question, whether each of its runs (rows) was solved within each k (columns)."""
    questions = defaultdict(list)
    for run in runs:
        attempt = getattr(run, found)
        questions[run.question].append([attempt is not None and attempt <= k for k in ks])
    return [np.array(rows, dtype=float) for _, rows in sorted(questions.items())]


def _beyond(values: np.ndarray, runs: Sequence[Run], ks: Sequence[int], found: str) -> np.ndarray:
    return np.where(np.asarray(ks) <= horizon(runs, found), values, np.nan)


def table(methods: dict[str, list[Run]]) -> str:
    """discovery@k of all methods, then the paper's numbers, in Markdown."""
    rows = [["", "questions", "runs", "unfinished", *(f"k={k}" for k in TABLE_K)]]
    rows.append(["---", *["---:"] * (len(rows[0]) - 1)])
    for method, runs in methods.items():
        counts = [len({run.question for run in runs}), len(runs), sum(run.unfinished for run in runs)]
        low, high = bootstrap(runs, TABLE_K)
        values = discovery(runs, TABLE_K)
        cells = [_cell(*value) for value in zip(values, low, high, strict=True)]
        rows.append([LABELS[method], *map(str, counts), *cells])
        public = [_cell(value) for value in discovery(runs, TABLE_K, "public")]
        rows.append([f"{LABELS[method]}, public tests only", "", "", "", *public])
    for name, numbers in PAPER.items():
        for method, value in numbers.items():
            blank = [""] * (len(TABLE_K) - 1)
            rows.append([f"*the paper's {LABELS[method]}, {name}*", "", "", "", *blank, f"*{value} %*"])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _cell(value: float, low: float | None = None, high: float | None = None) -> str:
    if np.isnan(value):
        return "-"
    return f"{value:.1%}" if low is None else f"{value:.1%} ({low:.0%} to {high:.0%})"


def different_questions(methods: dict[str, list[Run]]) -> str | None:
    """A warning when methods were not run on the same questions, so that their shares do not compare."""
    asked = {method: {run.question for run in runs} for method, runs in methods.items()}
    common = set.intersection(*asked.values())
    only = {LABELS[method]: sorted(questions - common) for method, questions in asked.items() if questions - common}
    return f"Not every method was run on the questions of {only}: the rows do not compare." if only else None


def plot(methods: dict[str, list[Run]], target: Path) -> None:
    """Draw discovery@k over k (logarithmic) with its bands."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    last = max(run.budget for runs in methods.values() for run in runs)
    ks = range(1, last + 1)
    figure, axes = pyplot.subplots(figsize=(7, 4.2))
    for method, runs in methods.items():
        (line,) = axes.step(ks, discovery(runs, ks), where="post", label=f"{LABELS[method]} ({len(runs)} runs)")
        low, high = bootstrap(runs, ks)
        axes.fill_between(ks, low, high, step="post", color=line.get_color(), alpha=0.15)
    axes.set(xscale="log", xlim=(1, last), ylim=(0, 1.02), xlabel="attempts k", ylabel="discovery@k")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    unfinished = target.with_suffix(f".tmp{os.getpid()}.png")
    figure.savefig(unfinished, dpi=120, bbox_inches="tight")
    pyplot.close(figure)
    os.replace(unfinished, target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", type=Path, nargs="+", help=f"log files, or folders that hold *{SUFFIX}")
    parser.add_argument("--plot", type=Path, help="image to write (default: discovery.png beside the logs)")
    args = parser.parse_args()
    target = args.plot or (args.logs[0] if args.logs[0].is_dir() else args.logs[0].parent) / "discovery.png"
    methods = find_runs(args.logs)
    print(table(methods))
    warning = different_questions(methods)
    if warning:
        print(f"\n{warning}")
    plot(methods, target)
    print(f"\nPlot: {target}")


if __name__ == "__main__":
    main()
