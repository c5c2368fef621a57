"""Split a dataset's tasks into train.json and test.json (JSON lines).

    python data/split_tasks.py --json-path datasets/chemistry.json --output-dir datasets/sciknoweval/chemistry \\
        --test-ratio 0.1 --seed 42
"""

import os
import sys

if not __package__:
    # Started by its path: `data` is in the repository.
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import argparse
import math
import tempfile
from pathlib import Path

import numpy as np

from data.records import DataError, read_records, replacing, run, to_json


def order(count: int, test_ratio: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw which of `count` tasks go to train and to test, and in which order.

    The same permutation as `datasets.Dataset.train_test_split` in numpy's PCG64 stream, which made the published splits
    (a test guards both).

    Raises:
        DataError: a side would be empty.
    """
    n_test = math.ceil(test_ratio * count)
    if not 0 < n_test < count:
        raise DataError(f"--test-ratio {test_ratio} leaves a side of {count} tasks empty; it must be between 0 and 1.")
    permutation = np.random.default_rng(seed).permutation(count)
    return permutation[n_test:], permutation[:n_test]


def split_tasks(json_path: str, output_dir: str, *, test_ratio: float, seed: int) -> tuple[int, int]:
    """Write `output_dir`/{train,test}.json; returns the number of tasks in each."""
    with tempfile.TemporaryFile() as spool:
        # A record is kept as its place in a temporary file: datasets of code tasks can be larger than the memory.
        places = []
        for _, record in read_records(json_path):
            places.append(spool.tell())
            spool.write(to_json(record).encode() + b"\n")
        sides = order(len(places), test_ratio, seed)
        with replacing(Path(output_dir, "train.json"), Path(output_dir, "test.json")) as partial:
            for path, side in zip(partial, sides, strict=True):
                with open(path, "wb") as file:
                    for number in side:
                        spool.seek(places[number])
                        file.write(spool.readline())
    return len(sides[0]), len(sides[1])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json-path", "--json_path", required=True, help="JSON array or JSON lines")
    parser.add_argument("--output-dir", "--output_dir", required=True)
    parser.add_argument(
        "--test-ratio", "--test_ratio", type=float, default=0.1, help="share of the tasks that go to test (0.1)"
    )
    parser.add_argument("--seed", type=int, default=42, help="seed of the permutation (42)")
    args = parser.parse_args(argv)
    train, test = split_tasks(args.json_path, args.output_dir, test_ratio=args.test_ratio, seed=args.seed)
    print(f"{args.output_dir}: {train} train and {test} test tasks")


if __name__ == "__main__":
    run(main)
