"""Load a dataset from the Hugging Face Hub (or a local copy of it) as one JSON array of unified records.

    python data/load_dataset.py --dataset-name Chemistry --output-path datasets/chemistry.json
    python data/load_dataset.py --list

A record has: idx (its place in the filtered dataset), kind, dataset (verl's `data_source`), answer, elo, prompt,
description, tests and public_tests (JSON strings, code tasks only), system. What does not apply is "-", except
`public_tests` and `system`, which are null.
"""

import os
import sys

if not __package__:
    # Started by its path: `data` is in the repository.
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import argparse
import importlib
import itertools
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator

from tqdm import tqdm

from data.records import DataError, read_records, replacing, run, write_array
from data.sources import catalog
from data.sources.catalog import Entry
from data.sources.tooluse import ORIGIN


def open_rows(entry: Entry, *, revision: str | None = None, source: str | None = None) -> Iterable[dict]:
    """Return the dataset's rows in the hub's own columns.

    Args:
        entry: the dataset.
        revision: commit, branch or tag of the hub's repository instead of the pinned one.
        source: a local copy instead of the hub: a folder laid out like the repository, or for tooluse a file.

    Raises:
        DataError: no network, no access, or no such copy.
    """
    if entry.repo is None:
        if source is None:
            raise DataError(f"'{entry.name}' is not on the hub: give a copy of a file of {ORIGIN} with --source.")
        return (row for _, row in read_records(source))
    if source is not None and not os.path.isdir(source):
        raise DataError(f"--source {source} is not a folder; expected a copy of the hub's repository {entry.repo}.")
    return _copied_rows(entry, source) if source else _rows(entry, revision=revision or entry.revision)


def _copied_rows(entry: Entry, source: str) -> Iterator[dict]:
    # The usual cache knows a local folder by its name and configuration only: another copy would give the first's rows.
    with tempfile.TemporaryDirectory() as cache:
        yield from _rows(entry, source=source, cache=cache)


def _rows(
    entry: Entry, *, revision: str | None = None, source: str | None = None, cache: str | None = None
) -> Iterable[dict]:
    # Imported here because they take seconds, which `--list` and tooluse do not need.
    import datasets
    import httpx

    try:
        if entry.file is not None:
            root = source or f"hf://datasets/{entry.repo}" + (f"@{revision}" if revision else "")
            files = {entry.split: f"{root}/{entry.file}"}
            return datasets.load_dataset("json", data_files=files, split=entry.split, cache_dir=cache)
        return datasets.load_dataset(
            source or entry.repo, entry.subset, split=entry.split, revision=revision, cache_dir=cache
        )
    except (OSError, httpx.HTTPError, datasets.exceptions.DatasetsError) as error:
        raise DataError(_sentence(entry, revision, source, error)) from error


def _sentence(entry: Entry, revision: str | None, source: str | None, error: Exception) -> str:
    text = " ".join(str(error).split())
    if source is not None:
        return f"cannot read the local copy {source} of {entry.repo}: {text}"
    failed = f"cannot load the hub's dataset {entry.repo} (revision {revision or 'newest'}): "
    if "gated" in text:
        page = f"https://huggingface.co/datasets/{entry.repo}"
        return f"{failed}it is gated. Ask for access at {page}, then run `hf auth login`."
    return f"{failed}{text} Check the network, or download it elsewhere and give the folder with --source."


def records_of(
    rows: Iterable[dict], entry: Entry, *, category: str | None = None, left_out: Counter | None = None
) -> Iterator[dict]:
    """Turn hub rows into unified records, numbered after filtering.

    Args:
        rows: rows in the hub's columns.
        entry: the dataset they are of.
        category: keep only this value of the dataset's category column (underscores stand for blanks).
        left_out: counts, by kind, the rows that cannot be graded.

    Raises:
        DataError: a row is not what the dataset's family expects.
    """
    family = importlib.import_module(f"data.sources.{entry.family}")
    left_out = Counter() if left_out is None else left_out
    idx = 0
    for number, row in enumerate(rows):
        try:
            if not _matches(row, entry.where) or not _in_category(row, entry, category):
                continue
            record = family.to_record(row, entry)
        except KeyError as error:
            raise DataError(f"{entry.name}, row {number}: no column {error}; has the layout changed?") from error
        except DataError as error:
            raise DataError(f"{entry.name}, row {number}: {error}") from error
        if record is None:
            left_out[row.get("kind", entry.kind)] += 1
        else:
            yield _unified(record, entry, idx)
            idx += 1


def _unified(record: dict, entry: Entry, idx: int) -> dict:
    known = {"idx": idx, "kind": entry.kind, "dataset": entry.dataset} | record
    description = record["description"]
    if entry.repo is not None:  # records that are shipped ready-made have no such ending
        description += f" The solution will be evaluated in a {known['kind']} environment."
    return {
        "idx": known["idx"],
        "kind": known["kind"],
        "dataset": known["dataset"],
        "answer": _or_dash(record.get("answer")),
        "elo": _or_dash(record.get("elo")),
        "prompt": record["prompt"],
        "description": description,
        "tests": _or_dash(record.get("tests")),
        "public_tests": record.get("public_tests"),
        "system": record.get("system"),
    }


def _or_dash(value: object) -> object:
    return "-" if value is None else value


def _matches(row: dict, where: dict) -> bool:
    for column, allowed in where.items():
        value = row
        for part in column.split("."):
            value = value[part]
        if isinstance(allowed, dict):
            # `datasets` turns text that looks like a date into a datetime; both begin with YYYY-MM-DD.
            if not allowed["from"] <= str(value)[:10] < allowed["before"]:
                return False
        elif value not in allowed:
            return False
    return True


def _in_category(row: dict, entry: Entry, category: str | None) -> bool:
    return category is None or row[entry.category] == category.replace("_", " ")


def main(argv: list[str] | None = None) -> None:
    args = _parse(argv)
    if args.list:
        print(catalog.as_markdown(catalog.load_catalog()))
        return
    entry = catalog.find(args.dataset_name)
    if args.category is not None and entry.category is None:
        raise DataError(f"'{entry.name}' has no categories to choose from.")

    left_out: Counter = Counter()
    rows = open_rows(entry, revision=args.revision, source=args.source)
    records = records_of(tqdm(rows, desc=entry.name, unit=" rows"), entry, category=args.category, left_out=left_out)
    stop = None if args.num_el is None else args.start_idx + args.num_el
    with replacing(args.output_path) as (partial,):
        count = write_array(partial, itertools.islice(records, args.start_idx, stop))
        if not count:
            raise DataError(f"no record of '{entry.name}' is left with these options; nothing was written.")
    print(f"{args.output_path}: {count} records of '{entry.name}'")
    for kind, number in left_out.items():
        print(f"left out {number} rows of kind {kind}: they have no tests, or that kind has no grader")
    whole = not (args.category or args.start_idx or args.num_el or args.source)
    if whole and entry.records not in (None, count):
        print(f"warning: {entry.records} records were expected; the source has changed, results may not compare.")


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset-name", "--dataset_name", help="a name of --list")
    parser.add_argument("--output-path", "--output_path", help="the JSON file to write")
    parser.add_argument("--start-idx", "--start_idx", type=int, default=0, help="first record to keep")
    parser.add_argument("--num-el", "--num_el", type=int, help="number of records to keep (all)")
    parser.add_argument("--category", help="keep one category of gpqa-D, MMLU-Pro or verifiable-corpus")
    parser.add_argument("--revision", help="commit, branch or tag of the hub's repository instead of the pinned one")
    parser.add_argument("--source", help="a local copy: folder of the hub's repository; for tooluse a file")
    parser.add_argument("--list", action="store_true", help="print the table of datasets")
    args = parser.parse_args(argv)
    if not args.list and not (args.dataset_name and args.output_path):
        parser.error("--dataset-name and --output-path are required (or --list)")
    return args


if __name__ == "__main__":
    run(main)
