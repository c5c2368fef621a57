"""The paper's tables of one or many runs, with intervals from a paired bootstrap over questions and seeds.

Shapes: `S` seeds of a method, `T` steps with a validation, `Q` questions, `B` draws.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from verl.sdpo.runs.reader import Answer, Run
from verl.sdpo.runs.statistics import DRAWS, interval, resample

LEVEL = 95
CLOCKS = (1.0, 5.0)
"""Hours of summed step time in which the paper looks for the best accuracy."""

Array = np.ndarray


@dataclass(frozen=True)
class Table:
    title: str
    note: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Accuracies:
    """Validation of one method."""

    values_STQ: Array
    """Mean over the k answers to each question."""
    hours_ST: Array
    """Summed time of the training's steps before each validation."""


def tables(methods: Mapping[str, Sequence[Run]]) -> list[Table]:
    """All of them that the runs have data for."""
    runs = [run for members in methods.values() for run in members]
    sources = list(dict.fromkeys(source for run in runs for source in run.validations))
    made = []
    if shared := questions(runs):
        name = sources[0] if len(sources) == 1 else "all questions together"
        made.append(accuracy_table(name, {method: by_question(members, shared) for method, members in methods.items()}))
    if len(sources) > 1 or not made:
        for source in sources:
            made.append(accuracy_table(source, {m: of_source(members, source) for m, members in methods.items()}))
    return [*made, *answer_tables(methods)]


def questions(runs: Sequence[Run]) -> list[str]:
    """Those that every run answered in every validation; none where one has no answers."""
    sets = [{answer.question for answer in answers} for run in runs for answers in run.answers.values()]
    if not sets or not all(run.answers for run in runs):
        return []
    return sorted(set.intersection(*sets))


def by_question(runs: Sequence[Run], shared: Sequence[str]) -> Accuracies:
    steps = sorted(set.intersection(*(set(run.answers) & set(run.hours) for run in runs)))
    values = []
    for run in runs:
        grouped = [_group(run.answers[step]) for step in steps]
        values.append([[np.mean([a.accuracy for a in groups[question]]) for question in shared] for groups in grouped])
    return Accuracies(np.array(values), np.array([[run.hours[step] for step in steps] for run in runs]))


def of_source(runs: Sequence[Run], source: str) -> Accuracies:
    """Without the single answers: one question, so that the intervals are over seeds alone."""
    curves = [run.validations.get(source, {}) for run in runs]
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    values = np.array([[[curve[step]] for step in steps] for curve in curves])
    return Accuracies(values, np.array([[run.hours[step] for step in steps] for run in runs]))


def _group(answers: Sequence[Answer]) -> dict[str, list[Answer]]:
    groups: dict[str, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(answer.question, []).append(answer)
    return groups


def curve_statistics(accuracies: Accuracies, curves_STB: Array) -> dict[str, Array]:
    """Return (S, B) per statistic of each seed's curve: before, within the clocks, best, last, mean over training."""
    found = {"before": curves_STB[:, 0]}
    for limit in CLOCKS:
        is_late = (accuracies.hours_ST > limit)[..., None]
        best_SB = np.where(is_late, -np.inf, curves_STB).max(1)
        # NaN: not validated within the clock.
        found[f"best in {limit:g} h"] = np.where(np.isinf(best_SB), np.nan, best_SB)
    return {**found, "best": curves_STB.max(1), "last": curves_STB[:, -1], "mean": curves_STB.mean(1)}


def bootstrap(accuracies: Accuracies, seed: int = 0) -> tuple[dict[str, float], dict[str, Array]]:
    """Return every statistic as measured, and its (B,) draws.

    Each draw takes Q questions and S seeds with replacement. Methods with as many seeds draw the same questions and
    seeds: that makes differences of their draws paired.
    """
    seeds, _, count = accuracies.values_STQ.shape
    generator = np.random.default_rng(seed)
    weights_BQ = resample(generator, count) / count
    weights_BS = resample(generator, seeds) / seeds
    measured = curve_statistics(accuracies, accuracies.values_STQ.mean(-1, keepdims=True))
    drawn = curve_statistics(accuracies, accuracies.values_STQ @ weights_BQ.T)
    draws = {name: (values_SB * weights_BS.T).sum(0) for name, values_SB in drawn.items()}
    return {name: float(values.mean()) for name, values in measured.items()}, draws


def accuracy_table(name: str, methods: Mapping[str, Accuracies]) -> Table:
    usable = {method: of for method, of in methods.items() if of.values_STQ.size}
    results = {method: bootstrap(of) for method, of in usable.items()}
    rows: list[list[str]] = []
    for method, (measured, draws) in results.items():
        seeds = len(usable[method].values_STQ)
        rows.append([method, str(seeds), *(_with_interval(measured[key], draws[key]) for key in measured)])
    for method, (measured, draws) in list(results.items())[1:]:
        first, (base, base_draws) = next(iter(results.items()))
        cells = [_with_interval(measured[key] - base[key], draws[key] - base_draws[key], "+") for key in measured]
        rows.append([f"{method} minus {first}", "", *cells])
    count = max((of.values_STQ.shape[-1] for of in usable.values()), default=0)
    drawn = (
        f"{count} questions and the seeds" if count > 1 else "the seeds alone, as the single answers were not dumped"
    )
    note = (
        f"avg@k; in brackets {LEVEL} % of {DRAWS} paired bootstrap draws of {drawn}. Best: the best validation of each "
        "seed, so biased upwards; within hours of summed step time; mean: over all validations."
    )
    header = ["method", "seeds", *next(iter(results.values()))[0]] if results else []
    return Table(f"Validation accuracy: {name}", note, header, rows)


def _with_interval(value: float, draws: Array, sign: str = "") -> str:
    if not np.isfinite(value):
        return "-"
    low, high = interval(draws, LEVEL)
    return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def answer_tables(methods: Mapping[str, Sequence[Run]]) -> list[Table]:
    """How the answers differ: at the first and the last step that was dumped."""
    rows = []
    for method, runs in methods.items():
        per_run = [facts for run in runs if (facts := _facts(run))]
        names = list(dict.fromkeys(name for facts in per_run for name in facts))
        for name in names:
            pairs = [facts[name] for facts in per_run if name in facts]
            first, last = (float(np.mean([pair[i] for pair in pairs])) for i in (0, 1))
            rows.append([method, name, f"{first:.3f}", f"{last:.3f}"])
    if not rows:
        return []
    note = "Mean over seeds. pass@k: at least one of the k answers to a question is right. Training: of the dump."
    return [Table("Answers", note, ["method", "", "first", "last"], rows)]


def _facts(run: Run) -> dict[str, tuple[float, float]]:
    """Name to its values at the first and the last step."""
    found: dict[str, list[dict[str, float]]] = {"held-out": [], "training": []}
    if run.answers:
        for step in (min(run.answers), max(run.answers)):
            groups = _group(run.answers[step]).values()
            k = max(len(group) for group in groups)
            solved = [any(answer.accuracy >= 1 for answer in group) for group in groups]
            numbers = {f"held-out pass@{k}": float(np.mean(solved))}
            if k > 1:
                distinct = [len({answer.text for answer in group}) for group in groups]
                numbers[f"held-out: distinct of {k} answers"] = float(np.mean(distinct))
            found["held-out"].append(numbers)
    if files := run.sample_files:
        found["training"] = [training_facts(run.samples(step)) for step in (min(files), max(files))]
    return {
        name: (steps[0][name], steps[1][name])
        for steps in found.values()
        if steps
        for name in steps[0]
        if name in steps[1]
    }


def training_facts(samples: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of the groups of one step."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for sample in samples:
        groups.setdefault(sample["uid"], []).append(sample)
    sizes = max(len(group) for group in groups.values())
    facts = {
        f"training pass@{sizes}": float(np.mean([any(s["solved"] for s in group) for group in groups.values()])),
        f"training: distinct of {sizes} responses": float(
            np.mean([len({s["response"] for s in group}) for group in groups.values()])
        ),
    }
    shown = [s for s in samples if s.get("demonstration")]
    if shown:
        equal = [s["response"].strip() == s["demonstration"].strip() for s in shown]
        facts["training: share equal to the demonstration"] = float(np.mean(equal))
    return facts
