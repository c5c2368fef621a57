"""The essentials of one or many runs for a terminal."""

from collections.abc import Mapping, Sequence

from verl.sdpo.report.curves import PANELS, metric_names
from verl.sdpo.report.findings import findings
from verl.sdpo.report.tables import Table, tables
from verl.sdpo.runs.reader import Run

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 40


def text_report(methods: Mapping[str, Sequence[Run]]) -> str:
    parts = [table_text(table) for table in tables(methods)]
    parts += [run_text(method, run) for method, runs in methods.items() for run in runs]
    return "\n\n".join(parts)


def run_text(method: str, run: Run) -> str:
    """Of every metric its first and last value, and a line of bars between its extremes."""
    rows = []
    for panel in PANELS:
        for name in metric_names(panel, [run]):
            values = list(run.series(name).values())
            rows.append([name, bars(values), f"{values[0]:.4g}", f"{values[-1]:.4g}", panel.unit])
    heading = f"{method}, seed {run.seed}: {run.folder}, step {max(run.metrics, default=0)} of {run.total_steps or '?'}"
    curves = table_text(Table(heading, "", ["metric", "", "first", "last", "unit"], rows))
    sentences = findings(run) or ["Nothing wrong was noticed."]
    return "\n".join([curves, *(f"  - {sentence}" for sentence in sentences)])


def bars(values: Sequence[float]) -> str:
    """At most `WIDTH` of them, from the lowest value to the highest."""
    shown = [values[i * len(values) // WIDTH] for i in range(WIDTH)] if len(values) > WIDTH else values
    low, high = min(shown), max(shown)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((value - low) * scale)] for value in shown)


def table_text(table: Table) -> str:
    cells = [list(table.header), *(list(row) for row in table.rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(table.header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([table.title, *([table.note] if table.note else []), *(f"  {line}" for line in lines)])
