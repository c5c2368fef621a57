"""Turn train.json and test.json (JSON array or JSON lines) of a folder into verl's train.parquet and test.parquet.

python data/preprocess.py --data-source datasets/sciknoweval/chemistry
"""

import os
import sys

if not __package__:
    # Started by its path: `data` is in the repository.
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import argparse
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from data.records import DataError, read_records, replacing, run

# One schema for every dataset: verl concatenates files, and `datasets` refuses to where types differ.
_TEXT = pa.large_string()
SCHEMA = pa.schema(
    {
        "data_source": _TEXT,
        "prompt": pa.list_(pa.struct({"role": _TEXT, "content": _TEXT})),
        "ability": _TEXT,
        "reward_model": pa.struct({"style": _TEXT, "ground_truth": _TEXT}),
        "extra_info": pa.struct(
            {
                "split": _TEXT,
                "index": _TEXT,
                "description": _TEXT,
                "problem": _TEXT,
                "elo": pa.int64(),
                "public_tests": _TEXT,
            }
        ),
    }
)

# A row group is what is held in memory: few rows, and fewer where one task's tests take megabytes.
GROUP_ROWS = 32
GROUP_CHARACTERS = 4 << 20


def to_row(record: dict, split: str) -> dict:
    """Return the parquet row of a unified record.

    Raises:
        ValueError: a field is missing or unusable; says which.
    """
    for name in ("dataset", "kind", "prompt"):
        _text(record, name)
    for name in ("system", "description", "public_tests"):
        if not isinstance(record.get(name), str | None):
            raise ValueError(f"field '{name}' must be text or null, got {record[name]!r}")
    if "idx" not in record:
        raise ValueError("field 'idx' is missing")
    system, prompt = record.get("system"), record["prompt"]
    messages = [{"role": "system", "content": system}] if system is not None else []
    return {
        "data_source": record["dataset"],
        "prompt": [*messages, {"role": "user", "content": prompt}],
        "ability": record["kind"],
        "reward_model": {"style": record["kind"], "ground_truth": _ground_truth(record)},
        "extra_info": {
            "split": split,
            "index": str(record["idx"]),
            "description": record.get("description"),
            "problem": prompt,
            "elo": _elo(record.get("elo")),
            "public_tests": record.get("public_tests"),
        },
    }


def _text(record: dict, name: str) -> str:
    value = record.get(name)
    if not isinstance(value, str) or value.strip() in ("", "-"):
        raise ValueError(f"field '{name}' must be text that is not empty, got {value!r}")
    return value


def _ground_truth(record: dict) -> str:
    if record["kind"] != "code":
        return _text(record, "answer")
    text = _text(record, "tests")
    try:
        tests = json.loads(text)
        usable = len(tests["inputs"]) == len(tests["outputs"]) > 0
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"field 'tests' is not a JSON object with inputs and outputs: {error!r}") from error
    if not usable:
        raise ValueError("field 'tests' must have as many outputs as inputs, at least one")
    return text


def _elo(value: int | float | str | None) -> int | None:
    try:
        return None if value in (None, "-", "") else int(float(value))
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"field 'elo' must be a number, got {value!r}") from error


@dataclass
class Leaks:
    """Prompts that are in both splits: takes all test rows first, then answers for each train row."""

    tests: dict[bytes, str] = field(default_factory=dict)
    found: list[tuple[str, str]] = field(default_factory=list)

    def remember(self, row: dict) -> None:
        self.tests[_digest(row)] = row["extra_info"]["index"]

    def is_leak(self, row: dict) -> bool:
        """Return True if the row's prompt is in test, and note (train id, test id).

        A code task with the same id is no leak: `split_tests.py` puts each task into both splits, with different tests.
        """
        train_id, test_id = row["extra_info"]["index"], self.tests.get(_digest(row))
        if test_id is None or (row["ability"] == "code" and train_id == test_id):
            return False
        self.found.append((train_id, test_id))
        return True


def _digest(row: dict) -> bytes:
    return hashlib.sha256(json.dumps(row["prompt"]).encode()).digest()


def read_rows(path: str | os.PathLike, split: str) -> Iterator[dict]:
    """Yield the parquet rows of the records in `path`; raises `DataError` naming file and line of a malformed one."""
    for line, record in read_records(path):
        try:
            yield to_row(record, split)
        except ValueError as error:
            raise DataError(f"{path}:{line}: {error}.") from error


def write_parquet(path: str, rows: Iterable[dict]) -> int:
    """Write `rows` in small row groups; returns how many there were."""
    count, group, characters = 0, [], 0
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for row in rows:
            count += 1
            group.append(row)
            characters += len(row["reward_model"]["ground_truth"]) + len(row["extra_info"]["problem"])
            if len(group) == GROUP_ROWS or characters >= GROUP_CHARACTERS:
                writer.write_batch(pa.RecordBatch.from_pylist(group, SCHEMA))
                group, characters = [], 0
        if group:
            writer.write_batch(pa.RecordBatch.from_pylist(group, SCHEMA))
    return count


def preprocess(folder: str | os.PathLike, *, drop_leaks: bool = False) -> dict[str, int]:
    """Write `folder`/{train,test}.parquet; returns the number of rows of each.

    Train prompts that are in test are reported with both ids, and left out if `drop_leaks`.

    Raises:
        DataError: a file is missing, malformed or without a record.
    """
    folder, leaks, counts = Path(folder), Leaks(), {}

    def checked(split: str) -> Iterator[dict]:
        for row in tqdm(
            read_rows(folder / f"{split}.json", split), desc=f"{folder.name}/{split}", unit=" rows", leave=False
        ):
            if split == "test":
                leaks.remember(row)
            elif leaks.is_leak(row) and drop_leaks:
                continue
            yield row

    with replacing(folder / "test.parquet", folder / "train.parquet") as partial:
        for split, path in zip(("test", "train"), partial, strict=True):
            counts[split] = write_parquet(path, checked(split))
            if not counts[split]:
                raise DataError(f"{folder / split}.json leaves no record to train or test on.")
    for train_id, test_id in leaks.found:
        verdict = "dropped from train" if drop_leaks else "kept; drop it with --drop-leaks"
        print(f"{folder}: the prompt of train task {train_id} is also that of test task {test_id} ({verdict})")
    return counts


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data-source",
        "--data_source",
        required=True,
        nargs="+",
        metavar="DIR",
        help="folders with train and test.json",
    )
    parser.add_argument("--drop-leaks", action="store_true", help="leave out train tasks whose prompt is in test")
    args = parser.parse_args(argv)
    for folder in args.data_source:
        counts = preprocess(folder, drop_leaks=args.drop_leaks)
        print(f"{folder}: {counts['train']} train and {counts['test']} test rows")


if __name__ == "__main__":
    run(main)
