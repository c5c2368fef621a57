"""The table of a study: held-out accuracy of every arm, and how it differs from the first arm's, with intervals.

Shapes: `S` seeds, `Q` held-out questions.
"""

import json
import statistics
from collections.abc import Mapping

import numpy as np

from experiments.quickstart.report import Run

DRAWS = 10_000
COVERAGE = 95.0


def scores(run: Run, step: int) -> dict[str, float]:
    """Accuracy on each held-out question after a step, by its prompt, from verl's dump of validations."""
    # Bytes, as in verl/sdpo/runs/reader.py.
    rows = [json.loads(line) for line in (run.folder / "heldout" / f"{step}.jsonl").read_bytes().splitlines()]
    return {row["input"]: row["acc"] for row in rows}


def final_scores(runs: Mapping[int, Run]) -> np.ndarray:
    """(S, Q), in the order of seeds and of prompts."""
    last = [scores(runs[seed], runs[seed].curve("heldout")[0][-1]) for seed in sorted(runs)]
    return np.array([[row[prompt] for prompt in sorted(row)] for row in last])


def interval(values_SQ: np.ndarray) -> tuple[float, float]:
    """Bootstrap interval of the mean, over seeds and questions.

    Both are drawn with replacement, independently of each other: all seeds answer the same questions. With one seed it
    is an interval over questions only, and says nothing of other seeds.
    """
    seeds, questions = values_SQ.shape
    generator = np.random.default_rng(0)
    counts_DS = generator.multinomial(seeds, np.full(seeds, 1 / seeds), DRAWS) / seeds
    counts_DQ = generator.multinomial(questions, np.full(questions, 1 / questions), DRAWS) / questions
    means_D = ((counts_DS @ values_SQ) * counts_DQ).sum(-1)
    rest = (100 - COVERAGE) / 2
    low, high = np.percentile(means_D, [rest, 100 - rest])
    return float(low), float(high)


def difference(runs: Mapping[int, Run], reference: Mapping[int, Run]) -> np.ndarray:
    """Final scores less the reference's on the same seed and question, (S, Q), of the seeds that both have, one at
    least.
    """
    shared = runs.keys() & reference.keys()
    mine, theirs = ({seed: arm[seed] for seed in shared} for arm in (runs, reference))
    return final_scores(mine) - final_scores(theirs)


def table(arms: Mapping[str, Mapping[int, Run]]) -> str:
    """In Markdown, a row per arm; means over its seeds.

    Args:
        arms: complete runs by seed, of every arm by name. The first arm is what the others are compared with.
    """
    first, *_ = arms
    steps = next(iter(arms[first].values())).curve("heldout")[0]
    middle, end = steps[len(steps) // 2], steps[-1]
    header = ["held-out accuracy", "seeds", "before", f"step {middle}", f"step {end}", f"{COVERAGE:.0f} %"]
    header += [f"less {first}", f"{COVERAGE:.0f} %", "best", "training, mean", "s/step"]
    rows = [header, ["---", *["---:"] * (len(header) - 1)]]
    for name, runs in arms.items():
        curves = [dict(zip(*run.curve("heldout"), strict=True)) for run in runs.values()]
        cells = [str(len(runs)), *(_mean(curve[step] for curve in curves) for step in (0, middle, end))]
        cells += [_span(final_scores(runs)), *_compared(runs, arms[first] if name != first else None)]
        cells += [_mean(max(curve.values()) for curve in curves)]
        cells += [_mean(statistics.mean(run.curve("train")[1]) for run in runs.values())]
        cells += [f"{statistics.mean(run.seconds_per_step() or 0.0 for run in runs.values()):.0f}"]
        rows.append([name, *cells])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _compared(runs: Mapping[int, Run], reference: Mapping[int, Run] | None) -> list[str]:
    if reference is None or not runs.keys() & reference.keys():
        return ["", ""]
    values_SQ = difference(runs, reference)
    return [f"{values_SQ.mean():+.2f}", _span(values_SQ, "+")]


def _span(values_SQ: np.ndarray, sign: str = "") -> str:
    low, high = interval(values_SQ)
    return f"{low:{sign}.2f} to {high:{sign}.2f}"


def _mean(values) -> str:
    return f"{statistics.mean(values):.2f}"
