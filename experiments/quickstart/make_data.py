"""Writes the quickstart's tasks as the parquet files that verl reads: FOLDER/TASK/{train,test}.parquet.

python -m experiments.quickstart.make_data FOLDER [--train 256] [--heldout 64] [--seed 0]
"""

import argparse
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.records import replacing
from experiments.quickstart.environment import ENVIRONMENTS, Task, data_source, make_tasks

FILES = {"train": "train.parquet", "heldout": "test.parquet"}


def to_row(task: Task, environment: str, split: str, index: int) -> dict[str, Any]:
    """One task in verl's columns."""
    return {
        "data_source": data_source(environment),
        "prompt": [{"role": "user", "content": task.prompt}],
        "ability": "tool_use",
        "reward_model": {"style": "rule", "ground_truth": json.dumps(task.call)},
        "extra_info": {"split": split, "index": index},
    }


def write_data(folder: Path, environment: str, counts: dict[str, int], seed: int) -> None:
    """Write one file per split into the environment's own folder."""
    for split, count in counts.items():
        tasks = make_tasks(environment, split, count, seed)
        rows = [to_row(task, environment, split, index) for index, task in enumerate(tasks)]
        with replacing(folder / environment / FILES[split]) as (partial,):
            pq.write_table(pa.Table.from_pylist(rows), partial)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=256, help="number of training tasks")
    parser.add_argument("--heldout", type=int, default=64, help="number of held-out tasks")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for environment in ENVIRONMENTS:
        write_data(args.folder, environment, {"train": args.train, "heldout": args.heldout}, args.seed)
