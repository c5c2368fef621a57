"""Show what one or several runs did: a page (default), a page that follows them (--watch), tables as text (--text).

python -m verl.sdpo.report [NAME=]RUN... [--out report.html] [--text] [--plot accuracy.png] [--watch [--port 8765]]

RUN is the folder of a run, of the quickstart (outputs/quickstart/runs/NAME), of a sweep, or any that is laid out as
verl/sdpo/runs/reader.py describes. NAME is what its method is called; runs of one name are seeds of one method.
"""

import argparse
import os
import sys
from pathlib import Path

from verl.sdpo.runs.reader import Run, methods


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="[NAME=]RUN")
    parser.add_argument("--out", type=Path, help="write the page here; default: report.html, with --text no page")
    parser.add_argument("--text", action="store_true", help="print tables, curves and findings in Markdown")
    parser.add_argument("--plot", type=Path, help="draw accuracy over steps to this image (png, pdf, svg)")
    parser.add_argument("--watch", action="store_true", help="serve the page on this machine; it follows the runs")
    parser.add_argument("--port", type=int, default=8765, help="port of --watch; default: %(default)s")
    args = parser.parse_args()
    if args.watch and (args.out or args.text or args.plot):
        parser.error("--watch serves the page alone: leave out --out, --text and --plot")
    if not (args.watch or args.text or args.out):
        args.out = Path("report.html")
    return args


def read_run(word: str) -> Run:
    """Read NAME=FOLDER, or FOLDER, whose name may hold an equals sign."""
    name, separator, folder = word.partition("=")
    return Run(Path(folder), name) if separator and not Path(word).exists() else Run(Path(word))


def write(file: Path, content: bytes) -> None:
    """Write a file at once, so that a browser never reads half of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    partial.write_bytes(content)
    os.replace(partial, file)


def main() -> int:
    args = parse_arguments()
    try:
        if args.watch:
            from verl.sdpo.report.page_server import serve

            serve(lambda: [read_run(word) for word in args.runs], args.port)
            return 0
        runs = methods([read_run(word) for word in args.runs])
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    if args.text:
        from verl.sdpo.report.text_report import text_report

        print(text_report(runs), flush=True)
    try:
        if args.plot:
            from verl.sdpo.report.accuracy_plot import draw

            write(args.plot, draw(runs, args.plot.suffix[1:] or "png"))
            print(f"Plot: {args.plot}")
        if args.out:
            from verl.sdpo.report.page import build

            write(args.out, build(runs).encode())
            print(f"Report: {args.out}")
    except ModuleNotFoundError as error:
        if error.name not in ("plotly", "matplotlib"):
            raise
        print(f"{error.name} is not installed: pip install {error.name}, or use --text alone.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
