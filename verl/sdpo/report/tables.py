"""Tables of one or several runs, with intervals from a paired bootstrap over questions and seeds.

Shapes: `S` seeds of a method, `T` steps with a validation, `Q` questions, `B` draws.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from verl.sdpo.runs.guard_rules import ACCURACY
from verl.sdpo.runs.reader import Answer, Run
from verl.sdpo.runs.statistics import DRAWS, interval, resample

LEVEL = 95
CLOCKS = (1.0, 5.0)
"""Hours of training time in which the paper looks for the best accuracy."""
STEPS_SHOWN = 8

Array = np.ndarray


@dataclass(frozen=True)
class Table:
    """Cells as text, under a title and above a note."""

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
    """Training time before each validation."""
    seeds: Sequence[int | None]
    """Seed of each run."""

    def having(self, seeds: Sequence[int | None]) -> "Accuracies":
        """Select the runs of these seeds."""
        rows = [i for i, seed in enumerate(self.seeds) if seed in seeds]
        return Accuracies(self.values_STQ[rows], self.hours_ST[rows], [self.seeds[i] for i in rows])


def tables(methods: Mapping[str, Sequence[Run]]) -> list[Table]:
    """Return all tables that the runs have data for."""
    runs = [run for members in methods.values() for run in members]
    sources = list(dict.fromkeys(source for run in runs for source in run.validations))
    made = [step_table(source, methods) for source in sources or [""]]
    shared = questions(runs)
    if shared:
        name = sources[0] if len(sources) == 1 else "all questions together"
        made.append(accuracy_table(name, {method: by_question(members, shared) for method, members in methods.items()}))
    if len(sources) > 1 or not shared:
        for source in sources:
            made.append(accuracy_table(source, {m: by_source(members, source) for m, members in methods.items()}))
    return [*made, *answer_tables(methods)]


def step_table(source: str, methods: Mapping[str, Sequence[Run]]) -> Table:
    """Return the validation accuracy of every run by step, some evenly spread steps where there are many."""
    runs = [run for members in methods.values() for run in members]
    steps = sorted({step for run in runs for step in run.validations.get(source, {})})
    if len(steps) > STEPS_SHOWN:
        steps = [steps[i * (len(steps) - 1) // (STEPS_SHOWN - 1)] for i in range(STEPS_SHOWN)]
    header = ["before" if step == 0 else f"step {step}" for step in steps]
    rows = []
    for method, members in methods.items():
        curves = [run.validations.get(source, {}) for run in members]
        training = [list(run.series(ACCURACY).values()) for run in members]
        numbers = [
            [*(curve.get(step) for step in steps), float(np.mean(scores)) if scores else None, run.seconds_per_step]
            for run, curve, scores in zip(members, curves, training, strict=True)
        ]
        names = [str(run.seed) for run in members]
        if len(members) > 1:
            names.append("mean")
            known = [[value for value in column if value is not None] for column in zip(*numbers, strict=True)]
            numbers.append([float(np.mean(column)) if column else None for column in known])
        rows += [
            [method, name, *("" if value is None else f"{value:.3f}" for value in row[:-1]), _seconds(row[-1])]
            for name, row in zip(names, numbers, strict=True)
        ]
    note = "Training, mean: mean score over all training steps. s/step: median time of a training step."
    header = ["method", "seed", *header, "training, mean", "s/step"]
    return Table(f"Validation accuracy by step: {source or 'not validated'}", note, header, rows)


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def questions(runs: Sequence[Run]) -> list[str]:
    """Return the questions that every run answered in every validation; none where a run has no answers."""
    sets = [{answer.question for answer in answers} for run in runs for answers in run.answers.values()]
    if not sets or not all(run.answers for run in runs):
        return []
    return sorted(set.intersection(*sets))


def by_question(runs: Sequence[Run], shared: Sequence[str]) -> Accuracies:
    """Return the accuracy on each of the `shared` questions."""
    steps = sorted(set.intersection(*(set(run.answers) & set(run.hours) for run in runs)))
    values = []
    for run in runs:
        grouped = [_group(run.answers[step]) for step in steps]
        values.append([[np.mean([a.accuracy for a in groups[question]]) for question in shared] for groups in grouped])
    return _accuracies(runs, values, steps)


def by_source(runs: Sequence[Run], source: str) -> Accuracies:
    """Return the mean accuracy as if of one question: without single answers the intervals are over seeds alone."""
    curves = [run.validations.get(source, {}) for run in runs]
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    return _accuracies(runs, [[[curve[step]] for step in steps] for curve in curves], steps)


def _accuracies(runs: Sequence[Run], values: Sequence, steps: Sequence[int]) -> Accuracies:
    hours = np.array([[run.hours[step] for step in steps] for run in runs])
    return Accuracies(np.array(values), hours, [run.seed for run in runs])


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


def difference(minuend: Accuracies, subtrahend: Accuracies) -> tuple[dict[str, float], dict[str, Array], int | None]:
    """Return the difference of every statistic, its (B,) draws, and the number of seeds that both have.

    Seeds that only one of the two has are left out; None where they share none, and all are compared unpaired.
    """
    shared = [seed for seed in minuend.seeds if seed in subtrahend.seeds]
    if shared:
        minuend, subtrahend = minuend.having(shared), subtrahend.having(shared)
    (measured, draws), (base, base_draws) = bootstrap(minuend), bootstrap(subtrahend)
    differences = {name: measured[name] - base[name] for name in measured}
    return differences, {name: draws[name] - base_draws[name] for name in measured}, len(shared) or None


def accuracy_table(name: str, methods: Mapping[str, Accuracies]) -> Table:
    """Return every method's statistics, and how they differ from the first method's."""
    usable = {method: accuracies for method, accuracies in methods.items() if accuracies.values_STQ.size}
    rows: list[list[str]] = []
    statistics: list[str] = []
    for method, accuracies in usable.items():
        measured, draws = bootstrap(accuracies)
        statistics = list(measured)
        cells = [_with_interval(measured[key], draws[key]) for key in statistics]
        rows.append([method, str(len(accuracies.seeds)), *cells])
    for method, accuracies in list(usable.items())[1:]:
        first, base = next(iter(usable.items()))
        measured, draws, shared = difference(accuracies, base)
        cells = [_with_interval(measured[key], draws[key], "+") for key in statistics]
        rows.append([f"{method} minus {first}", str(shared or "unpaired"), *cells])
    count = max((accuracies.values_STQ.shape[-1] for accuracies in usable.values()), default=0)
    drawn = (
        f"{count} questions and the seeds" if count > 1 else "the seeds alone, as the single answers were not dumped"
    )
    note = (
        f"avg@k; in brackets {LEVEL} % of {DRAWS} paired bootstrap draws of {drawn}. Best: the best validation of each "
        "seed, so biased upwards; in hours of training time; mean: over all validations. Differences are of the "
        "seeds that both methods have."
    )
    return Table(f"Validation accuracy: {name}", note, ["method", "seeds", *statistics], rows)


def _with_interval(value: float, draws: Array, sign: str = "") -> str:
    if not np.isfinite(value):
        return "-"
    low, high = interval(draws, LEVEL)
    return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def answer_tables(methods: Mapping[str, Sequence[Run]]) -> list[Table]:
    """Return success and diversity of the answers at the first and the last step with a dump."""
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
    note = (
        "Mean over seeds. pass@k: at least one of the k answers to a question is right. Training: the dumped responses."
    )
    return [Table("Answers", note, ["method", "", "first", "last"], rows)]


def _facts(run: Run) -> dict[str, tuple[float, float]]:
    """Return name to its values at the first and the last step."""
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
    """Return success and diversity of the groups of one step."""
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
