"""discovery@k: the share of questions that are solved within k attempts, for every method that left logs.

    python -m verl.sdpo.test_time.discovery outputs/ttt [--plot IMAGE] [--paper]

Solved means confirmed: a response passed the public and the hidden tests. Best-of-k is pass@k where its logs are pools
(`best_of_k.py --pool`), everything else the share of runs; see `estimates`. Bands are 90 % bootstrap intervals over the
runs (seeds) of each question, as in the paper; a method with one run per question has none. When all questions are of
the paper's 19 hard ones, its 9 very hard ones get rows of their own.
"""

import argparse
import importlib.util
import io
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from verl.sdpo.test_time import published
from verl.sdpo.test_time.estimates import Band, Run, band, by_question, discovery, horizon, is_pool, pass_at_k
from verl.sdpo.test_time.grading import GRADING
from verl.sdpo.test_time.log import SUFFIX, read_log

TABLE_K = (16, 64, 250, 1000, 2750)
LABELS = {"sdpo": "SDPO", "best_of_k": "best-of-k", "multi_turn": "multi-turn"}
COLORS = {"sdpo": "#2d9635", "best_of_k": "#7f7f7f", "multi_turn": "#fe7728"}
PAPER_LINE = {"linestyle": "--", "linewidth": 1, "markersize": 4, "markerfacecolor": "white", "clip_on": False}
IMAGES = (".png", ".pdf", ".svg")

Methods = Mapping[str, Sequence[Run]]


def read_run(path: Path) -> Run | None:
    """Return the run of a log, or None while it has no attempt yet."""
    config, records = read_log(path)
    if not records:
        return None
    return Run(
        path=path,
        method=config["method"],
        question=config["question_id"],
        seed=config["seed"],
        model=config["model"],
        budget=config["budget"],
        pool=config.get("pool", False),
        tried=len(records),
        confirmed=tuple(record["attempt"] for record in records if record["confirmed"]),
        public=tuple(record["attempt"] for record in records if GRADING.is_success(record["reward"])),
    )


def find_runs(places: Sequence[Path]) -> tuple[dict[str, list[Run]], list[Path]]:
    """Return the runs of each method, from log files and all logs below folders, and the logs without an attempt.

    Raises:
        ValueError: there are none, two logs are of the same run, or not all are of the same model.
    """
    files = [file for place in places for file in (sorted(place.rglob(f"*{SUFFIX}")) if place.is_dir() else [place])]
    runs: dict[tuple, Run] = {}
    empty = []
    for file in dict.fromkeys(files):
        run = read_run(file)
        if run is None:
            empty.append(file)
            continue
        key = (run.method, run.question, run.seed)
        if key in runs:
            raise ValueError(f"{runs[key].path} and {file} both are method, question and seed {key}. Leave one out.")
        runs[key] = run
    models = sorted({run.model for run in runs.values()})
    if len(models) != 1:
        raise ValueError(
            f"{', '.join(map(str, places))}: found {len(runs)} logs (*{SUFFIX}) with attempts, of the models {models}, "
            "expected logs of one model. Name the folders or files of one experiment."
        )
    methods = defaultdict(list)
    for run in runs.values():
        methods[run.method].append(run)
    return {method: methods[method] for method in sorted(methods, key=list(LABELS).index)}, empty


def question_sets(methods: Methods) -> dict[str, Methods]:
    """Return the runs by the paper's sets of questions if all are on those questions, else all runs under "".

    Very hard questions count as hard, too.
    """
    ids = {name: {f"q_{number}" for number in numbers} for name, numbers in published.QUESTIONS.items()}
    asked = {run.question for runs in methods.values() for run in runs}
    if not asked <= ids["hard"]:
        return {"": methods}
    if asked <= ids["very-hard"]:
        return {"very-hard": methods}
    very_hard = {method: [run for run in runs if run.question in ids["very-hard"]] for method, runs in methods.items()}
    sets: dict[str, Methods] = {
        "hard": methods,
        "very-hard": {method: runs for method, runs in very_hard.items() if runs},
    }
    return {name: members for name, members in sets.items() if members}


def table(sets: Mapping[str, Methods], how: Band, paper: bool = False) -> str:
    """Return discovery@k of all methods, and the paper's numbers if asked for, as a Markdown table."""
    rows = [["", "questions", "runs", "unfinished", *(f"k={k}" for k in TABLE_K)]]
    rows.append(["---", *["---:"] * (len(rows[0]) - 1)])
    for name, methods in sets.items():
        suffix, total = (f", {_title(name)}", f" of {len(published.QUESTIONS[name])}") if name else ("", "")
        for method, runs in methods.items():
            counts = [f"{len(by_question(runs))}{total}", str(len(runs)), str(sum(run.unfinished for run in runs))]
            low, high = band(runs, TABLE_K, how)
            cells = [_cell(*value) for value in zip(discovery(runs, TABLE_K), low, high, strict=True)]
            rows.append([f"{label(method, runs)}{suffix}", *counts, *cells])
            public = [_cell(value) for value in discovery(runs, TABLE_K, "public")]
            rows.append([f"{LABELS[method]}{suffix}, public tests only", "", "", "", *public])
    for name in _paper_sets(sets) if paper else ():
        for method in LABELS:
            values = [_cell(value) for value in paper_discovery(name, method, TABLE_K)]
            cells = ["" if value == "-" else f"*{value}*" for value in values]
            rows.append([f"*the paper's {LABELS[method]}, {_title(name)}*", "", "", "", *cells])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    )


def _cell(value: float, low: float = np.nan, high: float = np.nan) -> str:
    if np.isnan(value):
        return "-"
    return f"{value:.1%}" + ("" if np.isnan(low) else f" ({low:.0%} to {high:.0%})")


def _title(name: str) -> str:
    return name.replace("-", " ")


def label(method: str, runs: Sequence[Run]) -> str:
    """Return the method's name, for best-of-k with which of its two estimates it is."""
    if method != "best_of_k":
        return LABELS[method]
    kinds = {is_pool(question) for question in by_question(runs)}
    return f"{LABELS[method]} ({' and '.join(name for pool, name in _ESTIMATES.items() if pool in kinds)})"


_ESTIMATES = {True: "pass@k", False: "first successes"}


def paper_discovery(name: str, method: str, ks: Sequence[int]) -> np.ndarray:
    """Return the paper's discovery@k on one of its sets, NaN where nothing is published."""
    if method == "best_of_k":
        successes = [published.SUCCESSES[number] for number in published.QUESTIONS[name]]
        values = np.mean([pass_at_k(published.POOL, count, ks) for count in successes], axis=0)
        known: dict[int, float] = dict(zip(ks, np.where(np.asarray(ks) <= published.POOL, values, np.nan), strict=True))
    else:
        known = dict(zip(published.FIGURE_13_K, published.FIGURE_13[name][method], strict=True))
    known[published.BUDGET] = published.AT_BUDGET[name][method]
    return np.array([known.get(k, np.nan) for k in ks])


def _paper_sets(sets: Mapping[str, Methods]) -> list[str]:
    return [name for name in published.QUESTIONS if name in sets or "" in sets]


PAPER_NOTE = (
    "The paper's numbers (arXiv 2601.20802, Qwen3-8B on LiveCodeBench v6, all 19 and 9 questions): k=2750 as printed, "
    "SDPO and multi-turn else read off Fig. 13 (+-0.2 points), best-of-k pass@k of the 2944 attempts per question "
    "behind Table 10."
)


def notes(methods: Methods, empty: Sequence[Path], paper: bool = False) -> list[str]:
    """Return the remarks without which the table would mislead."""
    lines = [f"No attempt yet, left out: {', '.join(map(str, empty))}."] if empty else []
    for method, runs in methods.items():
        unsolved = [run for run in runs if run.unfinished and not run.pool]
        shortest = min(unsolved, key=lambda run: run.tried, default=None)
        if shortest and horizon(runs) == shortest.tried:
            lines.append(f"{LABELS[method]} is known up to k={shortest.tried}, where {shortest.path} ends so far.")
    stopped = [run for run in methods.get("best_of_k", ()) if not run.pool]
    if stopped:
        lines.append(
            f"{len(stopped)} of {len(methods['best_of_k'])} logs of best-of-k stop at their first success: they tell "
            "when it came and no more, one sample per seed. The paper's pass@k needs best_of_k.py --pool."
        )
    asked = {method: {run.question for run in runs} for method, runs in methods.items()}
    common = set.intersection(*asked.values())
    only = {LABELS[method]: sorted(questions - common) for method, questions in asked.items() if questions - common}
    if only:
        lines.append(f"Not every method was run on the questions of {only}: the rows do not compare.")
    return [*lines, PAPER_NOTE] if paper else lines


def draw(sets: Mapping[str, Methods], how: Band, *, kind: str, paper: bool = False, log_axis: bool = False) -> bytes:
    """Draw discovery@k over k with its bands, one panel per set of questions, as an image (png, pdf or svg)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = {**sets, **{name: {} for name in _paper_sets(sets) if paper and name not in sets}}
    figure, all_axes = pyplot.subplots(1, len(panels), figsize=(1 + 5.5 * len(panels), 4.2), squeeze=False)
    for (name, methods), axes in zip(panels.items(), all_axes[0], strict=True):
        last = _last(methods, paper and bool(name))
        ks = range(1, last + 1)
        for method, runs in methods.items():
            text = f"{label(method, runs)}, {len(runs)} {'log' if len(runs) == 1 else 'logs'}"
            axes.step(ks, discovery(runs, ks), where="post", color=COLORS[method], label=text)
            low, high = band(runs, ks, how)
            axes.fill_between(ks, low, high, step="post", color=COLORS[method], alpha=0.15, linewidth=0)
        for method in LABELS if paper and name else ():
            points, marker = (ks, "") if method == "best_of_k" else (published.FIGURE_13_K, "o")
            values, text = paper_discovery(name, method, points), f"{LABELS[method]}, paper"
            axes.plot(points, values, marker=marker, color=COLORS[method], label=text, **PAPER_LINE)
        axes.set(xlim=(1 if log_axis else 0, last), ylim=(0, 1.02), xlabel="attempts k", ylabel="discovery@k")
        axes.set(xscale="log" if log_axis else "linear", title=f"{_title(name) or 'all'} questions")
        axes.grid(alpha=0.3)
        # Below the panel: inside it would hide curves.
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False, fontsize="small")
    image = io.BytesIO()
    figure.savefig(image, format=kind, dpi=120, bbox_inches="tight")
    pyplot.close(figure)
    return image.getvalue()


def _last(methods: Methods, paper: bool) -> int:
    """Return the end of a panel's axis: the largest budget. Pools are larger, and show no more of other methods."""
    searches = [run.budget for runs in methods.values() for run in runs if not run.pool]
    pools = [int(horizon(runs)) for runs in methods.values() if is_pool(runs)]
    return max([*(searches or pools), *([published.BUDGET] if paper else [])])


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("logs", type=Path, nargs="+", help=f"log files, or folders that hold *{SUFFIX}")
    add("--plot", type=Path, metavar="IMAGE", help="file to draw (default: discovery.png beside the logs)")
    add("--paper", action="store_true", help="show the published numbers too, marked as the paper's")
    add("--level", type=float, default=90, metavar="PER_CENT", help="width of the bands (%(default)s)")
    add("--resample-questions", action="store_true", help="let the bands account for the choice of questions as well")
    add("--log-axis", action="store_true", help="draw k on a logarithmic axis")
    args = parser.parse_args(arguments)
    if args.plot and args.plot.suffix not in IMAGES:
        parser.error(f"--plot {args.plot}: expected a name that ends in {', '.join(IMAGES)}")
    if not 0 < args.level < 100:
        parser.error(f"--level {args.level}: expected per cent between 0 and 100")
    return args


def main() -> None:
    args = parse()
    try:
        methods, empty = find_runs(args.logs)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    sets, how = question_sets(methods), Band(args.level, args.resample_questions)
    print("\n\n".join([table(sets, how, args.paper), *notes(methods, empty, args.paper)]))
    if importlib.util.find_spec("matplotlib") is None:
        sentence = f"No plot without matplotlib. Get it with: {sys.executable} -m pip install matplotlib"
        sys.exit(sentence) if args.plot else print(f"\n{sentence}")
        return
    target = args.plot or (args.logs[0] if args.logs[0].is_dir() else args.logs[0].parent) / "discovery.png"
    image = draw(sets, how, kind=target.suffix[1:], paper=args.paper, log_axis=args.log_axis)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(image)
    print(f"\nPlot: {target}")


if __name__ == "__main__":
    main()
