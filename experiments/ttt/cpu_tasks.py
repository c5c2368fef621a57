"""Writes the questions of run_cpu.sh: tool calls like the quickstart's, with more arguments, so that its model rarely
gets them right.

python -m experiments.ttt.cpu_tasks FOLDER [--task tool-json|renamed-key]

Each question gets a folder q_{number} with train.parquet (public tests) and test.parquet (hidden tests), which here are
the same: the one JSON object that answers it.
"""

import argparse
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data.records import replacing
from experiments.quickstart.environment import ENVIRONMENTS, Task, Tool
from experiments.quickstart.make_data import FILES, to_row

CALLS = (
    {"tool": "weather", "city": "Oslo", "day": "Friday", "time": "8:15"},
    {"tool": "alarm", "time": "6:45", "day": "Monday", "room": "bedroom"},
    {"tool": "music", "artist": "Bowie", "room": "kitchen", "time": "9:30"},
    {"tool": "lights", "room": "garage", "color": "green", "day": "Sunday"},
    {"tool": "map", "place": "harbor", "city": "Lima", "day": "Tuesday", "time": "7:00"},
    {"tool": "music", "artist": "Queen", "room": "office", "day": "Thursday", "time": "5:30"},
)


def to_task(name: str, call: dict[str, str]) -> Task:
    environment = ENVIRONMENTS[name]
    # The first wording states the arguments and repeats no request.
    return environment.task(Tool(call["tool"], tuple(call), request=""), environment.wordings[0], call)


def write_questions(folder: Path, environment: str) -> None:
    for number, call in enumerate(CALLS, 1):
        task = to_task(environment, call)
        for split, name in FILES.items():
            with replacing(folder / f"q_{number}" / name) as (partial,):
                pq.write_table(pa.Table.from_pylist([to_row(task, environment, split, number)]), partial)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--task", choices=("tool-json", "renamed-key"), default="tool-json")
    args = parser.parse_args()
    write_questions(args.folder, args.task)
