"""Tables, curves and findings of one or several runs in Markdown, for a terminal."""

from collections.abc import Mapping, Sequence

from verl.sdpo.report.curves import PANELS, metric_names
from verl.sdpo.report.findings import findings
from verl.sdpo.report.tables import Table, tables
from verl.sdpo.runs.reader import Run

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 40


def text_report(methods: Mapping[str, Sequence[Run]]) -> str:
    """Return the tables of all methods, then the curves and findings of every run."""
    parts = [table_text(table) for table in tables(methods)]
    parts += [run_text(method, run) for method, runs in methods.items() for run in runs]
    return "\n\n".join(parts)


def run_text(method: str, run: Run) -> str:
    """Return the first and last value of every metric, bars between its extremes, and the findings."""
    rows = []
    for panel in PANELS:
        for name in metric_names(panel, [run]):
            values = list(run.series(name).values())
            rows.append([name, bars(values), f"{values[0]:.4g}", f"{values[-1]:.4g}", panel.unit])
    heading = f"{method}, seed {run.seed}: {run.folder}, step {max(run.metrics, default=0)} of {run.total_steps or '?'}"
    curves = table_text(Table(heading, "", ["metric", "", "first", "last", "unit"], rows))
    sentences = findings(run) or ["Nothing wrong was noticed."]
    return "\n".join([curves, "", *(f"- {sentence}" for sentence in sentences)])


def bars(values: Sequence[float]) -> str:
    """Return at most `WIDTH` bars, from the lowest value to the highest."""
    shown = [values[i * len(values) // WIDTH] for i in range(WIDTH)] if len(values) > WIDTH else values
    low, high = min(shown), max(shown)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((value - low) * scale)] for value in shown)


def table_text(table: Table) -> str:
    """Return a table in Markdown, its columns aligned."""
    rows = [list(table.header), *(list(row) for row in table.rows)]
    widths = [max(3, *(len(row[i]) for row in rows)) for i in range(len(table.header))]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    lines.insert(1, ["-" * width for width in widths])
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return "\n\n".join([f"**{table.title}**", text, *([table.note] if table.note else [])])
