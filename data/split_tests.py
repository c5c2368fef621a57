"""Split the tests of code tasks: train.json has half of each task's tests, test.json has them all.

    python data/split_tests.py --json-path datasets/lcb_v6.json --output-dir datasets/lcb_v6

Both files have the same tasks in the same order (JSON lines). `--singles-dir` also writes one folder q_{idx} per task,
with its train line four times (a batch of copies) and its test line.
"""

import os
import sys

if not __package__:
    # Started by its path: `data` is in the repository.
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data.records import DataError, read_records, replacing, run, to_json, write_lines

SHARE_KEPT = 0.5
SEED = 0
COPIES_OF_A_SINGLE = 4


def halved(tests: str, random: np.random.RandomState) -> str:
    """Keep half of the tests (at least one), chosen at random, in their order.

    Args:
        tests: a `tests` JSON string.
        random: the legacy generator, because its stream is frozen across numpy's versions.

    Raises:
        ValueError, KeyError, TypeError: `tests` is not such a string, or holds no test.
    """
    content = json.loads(tests)
    count = len(content["inputs"])
    kept = np.sort(random.choice(count, size=max(1, int(count * SHARE_KEPT)), replace=False))
    for column in ("inputs", "outputs"):
        content[column] = [content[column][number] for number in kept]
    return to_json(content)


def pairs(json_path: str) -> Iterator[tuple[dict, dict]]:
    """Yield each task as (train record, test record); raises `DataError` where a record has no tests."""
    random = np.random.RandomState(SEED)
    for line, record in read_records(json_path):
        try:
            train = {**record, "idx": record["idx"], "tests": halved(record["tests"], random)}
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise DataError(f"{json_path}:{line}: not a code task with an idx and tests: {error!r}.") from error
        yield train, record


def split_tests(json_path: str, output_dir: str, *, singles_dir: str | None = None) -> int:
    """Write `output_dir`/{train,test}.json and, if given, the folders of `singles_dir`; returns the number of tasks."""
    count = 0
    with replacing(Path(output_dir, "train.json"), Path(output_dir, "test.json")) as partial:
        with (
            open(partial[0], "w", encoding="utf-8") as train_file,
            open(partial[1], "w", encoding="utf-8") as test_file,
        ):
            for train, test in pairs(json_path):
                count += 1
                train_file.write(to_json(train) + "\n")
                test_file.write(to_json(test) + "\n")
                if singles_dir is not None:
                    _write_single(Path(singles_dir, f"q_{test['idx']}"), train, test)
        if not count:
            raise DataError(f"{json_path} holds no task.")
    return count


def _write_single(folder: Path, train: dict, test: dict) -> None:
    with replacing(folder / "train.json", folder / "test.json") as partial:
        write_lines(partial[0], [train] * COPIES_OF_A_SINGLE)
        write_lines(partial[1], [test])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json-path", "--json_path", required=True, help="JSON array or JSON lines of code tasks")
    parser.add_argument("--output-dir", "--output_dir", required=True)
    parser.add_argument("--singles-dir", "--singles_dir", help="also write one folder per task here")
    args = parser.parse_args(argv)
    count = split_tests(args.json_path, args.output_dir, singles_dir=args.singles_dir)
    print(f"{args.output_dir}: {count} tasks; train keeps {SHARE_KEPT:.0%} of each task's tests, test has all")


if __name__ == "__main__":
    run(main)
