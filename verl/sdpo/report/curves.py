"""Curves of one or several runs as figures of plotly.js: a colour per method, a band around the mean of its seeds."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from verl.sdpo.runs.reader import Run

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#666666")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
ROLLING = 5

Series = dict[int, float]


@dataclass(frozen=True)
class Panel:
    """A figure with a line per method and metric."""

    title: str
    unit: str
    metrics: tuple[str, ...]
    """Regular expressions that match full names."""
    rolling: int = 1
    """Width of the running mean, in steps."""


PANELS = (
    Panel("Validation accuracy", "avg@k", (r"val-core/.+/(acc|reward|score)/mean@\d+",)),
    Panel("Training accuracy", "mean score", ("critic/score/mean",)),
    Panel(f"Response length (mean of {ROLLING} steps)", "tokens", ("response_length/mean",), ROLLING),
    Panel("Loss", "", ("actor/pg_loss", "actor/grpo_loss")),
    Panel("KL", "nats", ("self_distillation/kl", "actor/kl_loss", "rollout_corr/kl", "actor/ppo_kl")),
    Panel("Entropy", "nats", (r"self_distillation/(student|teacher)_entropy", "actor/entropy")),
    Panel("Distance of the teacher from the student", "relative", ("self_distillation/teacher_student_distance",)),
    Panel("Teacher's own accuracy", "", ("self_distillation/teacher_accuracy(/student)?",)),
    Panel(
        "Coverage: samples with a teacher context, groups with a success",
        "share",
        ("self_distillation/reprompt_sample_fraction", "self_distillation/success_group_fraction"),
    ),
    Panel("Probability outside the support", "tail mass", ("self_distillation/tail_mass",)),
    Panel("Clipped tokens", "share", (r"self_distillation/\w*clip_fraction", "actor/pg_clipfrac")),
    Panel("Responses cut at the longest length", "share", ("response_length/clip_ratio",)),
    Panel("Gradient norm", "", ("actor/grad_norm",)),
    Panel("Seconds by phase", "s", (r"timing_s/(?!step$)\w+",)),
    Panel("Memory", "GB", (r"(actor/)?perf/\w*memory\w*",)),
)


def figures(methods: Mapping[str, Sequence[Run]]) -> list[dict[str, Any]]:
    """Return `{title, data, unit}` of every panel that has data."""
    made = (figure(panel, methods) for panel in PANELS)
    return [each for each in made if each["data"]]


def figure(panel: Panel, methods: Mapping[str, Sequence[Run]]) -> dict[str, Any]:
    """Return one panel's figure, without data where no run has its metrics."""
    names = metric_names(panel, [run for runs in methods.values() for run in runs])
    traces: list[dict[str, Any]] = []
    for i, (method, runs) in enumerate(methods.items()):
        for j, name in enumerate(names):
            seeds = [rolling(run.series(name), panel.rolling) for run in runs]
            parts = [method] if len(methods) > 1 else []
            parts += [short(name, names)] if len(names) > 1 or not parts else []
            # With one method, colours tell its metrics apart.
            colour = COLOURS[(i if len(methods) > 1 else j) % len(COLOURS)]
            line = {"color": colour, "dash": DASHES[j % len(DASHES)] if len(methods) > 1 else "solid", "width": 2}
            traces += band([series for series in seeds if series], " ".join(parts), line)
    return {"title": panel.title, "data": traces, "unit": panel.unit}


def metric_names(panel: Panel, runs: Sequence[Run]) -> list[str]:
    """Return the panel's metrics that any of the runs has."""
    known = {name: None for run in runs for numbers in run.metrics.values() for name in numbers}
    return [name for pattern in panel.metrics for name in known if re.fullmatch(pattern, name)]


def short(name: str, among: Sequence[str]) -> str:
    """Return a metric's name without the prefix that all of `among` share."""
    prefix = name.rpartition("/")[0] + "/"
    return name.removeprefix(prefix) if all(other.startswith(prefix) for other in among) else name


def band(seeds: Sequence[Series], label: str, line: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the traces of the seeds' mean at every step, and of the area from the lowest to the highest seed."""
    steps = sorted({step for series in seeds for step in series})
    if not steps:
        return []
    values = [[series[step] for series in seeds if step in series] for step in steps]
    common: dict[str, Any] = {"x": steps, "type": "scatter", "legendgroup": label}
    mean = [sum(numbers) / len(numbers) for numbers in values]
    mode = "lines+markers" if len(steps) < 40 else "lines"
    traces = [{**common, "y": mean, "name": label, "mode": mode, "marker": {"size": 5}, "line": line}]
    if len(seeds) > 1:
        edge: dict[str, Any] = {
            **common,
            "mode": "lines",
            "line": {"width": 0},
            "hoverinfo": "skip",
            "showlegend": False,
        }
        fill = {"fill": "tonexty", "fillcolor": f"{line['color']}2e"}
        low, high = [min(numbers) for numbers in values], [max(numbers) for numbers in values]
        traces = [{**edge, "y": low}, {**edge, "y": high, **fill}, *traces]
    return traces


def rolling(series: Series, width: int) -> Series:
    """Return the running mean over `width` values, fewer at the start."""
    items = list(series.items())
    windows = [items[max(i + 1 - width, 0) : i + 1] for i in range(len(items))]
    return {window[-1][0]: sum(value for _, value in window) / len(window) for window in windows}
