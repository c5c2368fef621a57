"""Grade responses offline, exactly as in training: `python -m verl.utils.reward_score.feedback.grade --help`."""

import argparse
import json
import os
import platform
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from data.records import DataError, read_records, run
from verl.utils.reward_score.feedback import check_data_sources, compute_score
from verl.utils.reward_score.feedback.contract import MODES, STYLES, Reveal, Verdict

# Threads only wait for the sandbox, which has its own limit on running programs.
_THREADS = 16


def read_responses(path: Path, rows: int) -> list[dict[str, Any]]:
    """Read records of `response`, and optionally `index` (the data's row; default: 0, 1, ...) and `truncated`.

    Raises:
        DataError: The file cannot be read, or a record is no such object or names a row that the data does not have.
    """
    records = []
    for number, (line, given) in enumerate(read_records(path)):
        record = {"index": number, "truncated": False, **given}
        kinds = [type(record.get(name)) for name in ("response", "index", "truncated")]
        if kinds != [str, int, bool] or record["index"] not in range(rows):
            raise DataError(
                f"{path}:{line}: expected a text `response`, an `index` that is a whole number below {rows}, the "
                f"data's rows, and a `truncated` that is true or false; got {json.dumps(record)[:200]}."
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
    """Counts per verdict and the mean score, one line per data source."""
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
    run(main)
