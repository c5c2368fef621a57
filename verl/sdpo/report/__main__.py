"""Shows what one or many runs did: a page (default), a page that follows them (--watch), or text (--text).

python -m verl.sdpo.report RUN... [--out report.html] [--watch [--port 8765]] [--text]

RUN is the folder of a run, of the quickstart (outputs/quickstart/runs/NAME), of a sweep, or any that is laid out as
verl/sdpo/runs/reader.py says.
"""

import argparse
import os
import sys
from pathlib import Path

from verl.sdpo.runs.reader import Run, methods


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="default: %(default)s")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--watch", action="store_true", help="serve the page on this machine; it follows the runs")
    kind.add_argument("--text", action="store_true", help="print the essentials")
    parser.add_argument("--port", type=int, default=8765, help="of --watch; default: %(default)s")
    args = parser.parse_args()
    try:
        if args.watch:
            from verl.sdpo.report.watch import watch

            watch(args.runs, args.port)
            return 0
        runs = methods([Run(folder) for folder in args.runs])
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    if args.text:
        from verl.sdpo.report.text_report import text_report

        print(text_report(runs))
        return 0
    try:
        from verl.sdpo.report.page import build
    except ModuleNotFoundError as error:
        if error.name != "plotly":
            raise
        print("The page is drawn by plotly, which is not here: pip install plotly, or use --text.", file=sys.stderr)
        return 1
    partial = args.out.with_name(f".{args.out.name}.partial")
    partial.write_text(build(runs))
    os.replace(partial, args.out)
    print(f"Report: {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
