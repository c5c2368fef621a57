"""Build the report: one HTML file that opens without a network.

plotly.js, which the Python package brings along, draws it; that library and the samples are packed into the page with
gzip, and unpacked by the browser.
"""

import base64
import gzip
import html
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs

from verl.sdpo.report.curves import figures
from verl.sdpo.report.findings import findings
from verl.sdpo.report.sample_pack import pack
from verl.sdpo.report.tables import Table, tables
from verl.sdpo.runs.reader import Run

HERE = Path(__file__).parent


def build(methods: Mapping[str, Sequence[Run]], *, stamp: str | None = None) -> str:
    """Return the page.

    Args:
        methods: see `reader.methods`.
        stamp: of a served page, which reloads once its server returns another stamp.
    """
    template = Template((HERE / "page.html").read_text())
    return template.substitute(
        title=html.escape(", ".join(methods)),
        made=time.strftime("%Y-%m-%d %H:%M"),
        css=(HERE / "page.css").read_text(),
        js=(HERE / "page.js").read_text(),
        stamp=json.dumps(stamp),
        runs=table_html(run_table(methods)),
        findings="".join(findings_html(method, run) for method, runs in methods.items() for run in runs),
        tables="".join(table_html(table) for table in tables(methods)),
        plotly=packed(get_plotlyjs()),
        figures=packed(json.dumps(figures(methods))),
        samples=packed(json.dumps(pack(methods), separators=(",", ":"))),
    )


def packed(text: str) -> str:
    """Compress a text to letters that need no escape in HTML."""
    return base64.b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode()


def run_table(methods: Mapping[str, Sequence[Run]]) -> Table:
    """Return a row per run: folder, progress and training time."""
    rows = [
        [method, str(run.seed), str(run.folder), steps(run), f"{max(run.hours.values(), default=0.0):.2f}"]
        for method, runs in methods.items()
        for run in runs
    ]
    return Table("Runs", "", ["method", "seed", "folder", "step", "training time (h)"], rows)


def steps(run: Run) -> str:
    return f"{max(run.metrics, default=0)} of {run.total_steps or '?'}"


def findings_html(method: str, run: Run) -> str:
    heading = f"<h3>{html.escape(method)}, seed {run.seed}</h3>"
    sentences = findings(run)
    if not sentences:
        return f"{heading}<p>Nothing wrong was noticed.</p>"
    return f"{heading}<ul>{''.join(f'<li>{html.escape(sentence)}</li>' for sentence in sentences)}</ul>"


def table_html(table: Table) -> str:
    def row(cells: Sequence[Any], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(row(cells, "td") for cells in table.rows)
    note = f"<p class=note>{html.escape(table.note)}</p>" if table.note else ""
    return (
        f"<h3>{html.escape(table.title)}</h3><div class=scroll><table><thead>{row(table.header, 'th')}</thead>"
        f"<tbody>{body}</tbody></table></div>{note}"
    )
