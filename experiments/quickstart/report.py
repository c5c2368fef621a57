"""Shows what one or several runs of the quickstart learned: a table, and a plot of accuracy over steps.

python -m experiments.quickstart.report RUN_FOLDER... [--plot accuracy.png]
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from data.records import replacing
from experiments.quickstart.environment import data_source

HELDOUT = "val-core/{}/acc/mean@1"
TRAIN = "critic/score/mean"
SECONDS = "timing_s/step"


class Run:
    """The folder of one training run."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.log = folder / "verl.log"
        self.metrics_file = folder / "metrics.jsonl"
        self.settings_file = folder / "run.json"

    def settings(self) -> dict[str, Any]:
        return json.loads(self.settings_file.read_text())

    def records(self) -> list[dict[str, Any]]:
        """What verl logged so far: `step`, and `train`, `heldout` (accuracies) and `seconds`, each may be None.

        Step 0 is the model before training.
        """
        if not self.metrics_file.exists():
            return []
        # The last line may still be in the making.
        complete, _, _ = self.metrics_file.read_text().rpartition("\n")
        logged = [json.loads(line) for line in complete.splitlines()]
        heldout = HELDOUT.format(data_source(self.settings()["task"]))
        names = {"train": TRAIN, "heldout": heldout, "seconds": SECONDS}
        return [
            {"step": entry["step"], **{name: entry["data"].get(key) for name, key in names.items()}} for entry in logged
        ]

    def seconds_per_step(self) -> float | None:
        """Median over the training steps; None before the first."""
        seconds = [record["seconds"] for record in self.records() if record["seconds"] is not None]
        return statistics.median(seconds) if seconds else None

    def curve(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of `train` or `heldout`."""
        points = [(record["step"], record[name]) for record in self.records() if record[name] is not None]
        return [step for step, _ in points], [value for _, value in points]

    @property
    def label(self) -> str:
        settings = self.settings()
        return f"{settings['task']}, {settings['algorithm'].upper()}, seed {settings['seed']}"


def table(runs: list[Run]) -> str:
    """Held-out accuracy at each measured step, in Markdown."""
    curves = [dict(zip(*run.curve("heldout"), strict=True)) for run in runs]
    steps = sorted(set().union(*curves))
    header = ["held-out accuracy", *("before" if step == 0 else f"step {step}" for step in steps), "s/step"]
    rows = [header, ["---", *["---:"] * (len(header) - 1)]]
    for run, curve in zip(runs, curves, strict=True):
        cells = [f"{curve[step]:.2f}" if step in curve else "" for step in steps]
        rows.append([run.label, *cells, f"{run.seconds_per_step():.0f}"])
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    )


def plot(runs: list[Run], target: Path) -> None:
    """Draw held-out accuracy (thick) and training accuracy (thin) over the steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for run in runs:
        (line,) = axes.plot(*run.curve("heldout"), marker="o", linewidth=2, label=run.label)
        axes.plot(*run.curve("train"), color=line.get_color(), linewidth=0.8, alpha=0.5)
    axes.set(xlabel="training step", ylabel="accuracy", ylim=(0, 1.03), title="held-out (thick) and training (thin)")
    axes.legend()
    axes.grid(alpha=0.3)
    with replacing(target) as (partial,):
        figure.savefig(partial, format=target.suffix[1:] or "png", dpi=120, bbox_inches="tight")
    pyplot.close(figure)


def report(runs: list[Run], target: Path) -> None:
    """Print the table and write the plot.

    Raises:
        ValueError: naming a run that never measured anything.
    """
    for run in runs:
        if run.seconds_per_step() is None:
            raise ValueError(f"{run.folder}: {run.metrics_file.name} has no finished step. See {run.log}.")
    print(f"\n{table(runs)}\n")
    plot(runs, target)
    print(f"Plot: {target}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--plot", type=Path, default=Path("accuracy.png"))
    args = parser.parse_args()
    report([Run(folder) for folder in args.runs], args.plot)
