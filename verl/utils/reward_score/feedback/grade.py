"""Grade responses offline, exactly as in training: `python -m verl.utils.reward_score.feedback.grade --help`."""

import argparse
import json
import os
import platform
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from verl.utils.reward_score.feedback import check_data_sources, compute_score
from verl.utils.reward_score.feedback.contract import MODES, STYLES, Reveal, Verdict

# Threads only wait for the sandbox, which has its own limit on running programs.
_THREADS = 16


class InputError(ValueError):
    """An input file that the user has to correct; the message is one sentence."""


def read_objects(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield place and value of each entry of a JSON array, or of each line that is not blank.

    Raises:
        InputError: The file is missing, is no UTF-8, or holds what is not JSON; the message names file and line.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist.")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if text.lstrip().startswith("["):
            yield from ((f"{path}, entry {number}", value) for number, value in enumerate(json.loads(text), start=1))
            return
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text: {error}.") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not JSON: {error.msg} (column {error.colno}).") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield f"{path}:{number}", json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{path}:{number}: not JSON: {error.msg} (column {error.colno}).") from error


def read_responses(path: Path, rows: int) -> list[dict[str, Any]]:
    """Read records of `response`, and optionally `index` (the data's row; default: 0, 1, ...) and `truncated`.

    Raises:
        InputError: The file cannot be read, or a record is no such object or names a row that the data does not have.
    """
    records = []
    for number, (place, given) in enumerate(read_objects(path)):
        record = {"index": number, "truncated": False, **(given if isinstance(given, dict) else {})}
        kinds = [type(record.get(name)) for name in ("response", "index", "truncated")]
        if kinds != [str, int, bool] or record["index"] not in range(rows):
            raise InputError(
                f"{place}: expected a text `response`, an `index` that is a whole number below the data's {rows} rows, "
                f"and a `truncated` that is true or false; got {json.dumps(given)[:200]}."
            )
        records.append(record)
    return records


def grade_all(data: pd.DataFrame, records: list[dict[str, Any]], **kwargs: Any) -> Iterator[dict[str, Any]]:
    """Yield `compute_score`'s result for every record, in order."""

    def grade_one(record: dict[str, Any]) -> dict[str, Any]:
        row = data.iloc[record["index"]]
        extra_info = {**row["extra_info"], "truncated": record["truncated"]}
        ground_truth = row["reward_model"]["ground_truth"]
        return compute_score(row["data_source"], record["response"], ground_truth, extra_info, **kwargs)

    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(grade_one, records)


def table(sources: list[str], results: list[dict[str, Any]]) -> str:
    """Return counts per verdict and the mean score, one line per data source."""
    counts = {source: Counter[str]() for source in sources}
    for source, result in zip(sources, results, strict=True):
        counts[source][result["verdict"]] += 1
    shown = [verdict.value for verdict in Verdict if any(count[verdict.value] for count in counts.values())]
    frame = pd.DataFrame([[count[verdict] for verdict in shown] for count in counts.values()], list(counts), shown)
    frame.insert(0, "responses", frame.sum(axis=1))
    accepted = [count[Verdict.ACCEPTED.value] for count in counts.values()]
    frame.insert(1, "score", (accepted / frame["responses"]).round(4))
    return frame.to_string()


def write_results(path: Path, records: list[dict[str, Any]], results: list[dict[str, Any]], about: dict[str, str]):
    """Write one JSON object per record: its index, its result, and how it was graded."""
    unfinished = path.with_name(path.name + ".tmp")
    with unfinished.open("w") as file:
        for record, result in zip(records, results, strict=True):
            file.write(json.dumps({"index": record["index"], **result, **about}) + "\n")
    os.replace(unfinished, path)


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="parquet file that data/preprocess.py wrote")
    parser.add_argument(
        "--responses", type=Path, required=True, help="JSON lines, or an array: response, [index], [truncated]"
    )
    parser.add_argument("--output", type=Path, help="where to write the results as JSON lines")
    parser.add_argument("--show", type=int, default=3, help="print the feedback of so many failed responses")
    parser.add_argument("--mode", choices=MODES, default="script")
    parser.add_argument("--style", choices=STYLES, default="rich")
    parser.add_argument("--reveal", choices=[level.value for level in Reveal], help="default: each dataset's own")
    given = parser.parse_args(arguments)

    data = pd.read_parquet(given.data)
    options = {"mode": given.mode, "style": given.style, "reveal": given.reveal}
    check_data_sources(data["data_source"], **options)
    records = read_responses(given.responses, len(data))
    grading = grade_all(data, records, **options)
    results = list(tqdm(grading, total=len(records), unit="response"))

    failed = [(record, result) for record, result in zip(records, results, strict=True) if result["feedback"]]
    for record, result in failed[: given.show]:
        print(f"--- row {record['index']}: {result['verdict']}\n{result['feedback']}\n")
    print(table([data["data_source"].iloc[record["index"]] for record in records], results))
    broken = sorted(
        {record["index"] for record, result in zip(records, results, strict=True) if result["grader_error"]}
    )
    if broken:
        print(
            f"rows that could not be graded (their tests or gold answers are at fault): {', '.join(map(str, broken))}"
        )
    about = {"mode": given.mode, "python": platform.python_version()}
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    if given.output:
        write_results(given.output, records, results, about)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
