"""The doctor's look at the data."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from verl.sdpo.checks import describe
from verl.sdpo.doctor.finding import FAIL, OK, Finding
from verl.sdpo.preflight.chat_template import FIX, template_problem
from verl.sdpo.preflight.data_files import local_files


def check_data(data: Mapping, key: str, tokenizer) -> Iterator[Finding]:
    """Each parquet file of `data.<key>`.

    Args:
        data: the block `data` of the configuration.
        tokenizer: the model's; None where it is not on this disk.
    """
    subject = f"data {key.split('_')[0]}"
    if data["custom_cls"]["path"]:
        yield Finding(OK, subject, f"read by {data['custom_cls']['path']}, not looked at")
        return
    for path in local_files(data, key):
        if path.is_file():
            yield check_file(path, subject, data, tokenizer)
        else:
            fix = f"Make it (data/README.md), or set vars.dir and vars.task, or data.{key}."
            yield Finding(FAIL, subject, f"{path} is not there", fix)


def check_file(path: Path, subject: str, data: Mapping, tokenizer) -> Finding:
    """Check that a file has the columns that verl and graders read, and messages that the chat template renders."""
    try:
        metadata = pq.read_metadata(path)
    except (pa.lib.ArrowException, OSError) as error:
        return Finding(FAIL, subject, f"{path}: {describe(error)}", "Make it again: data/README.md.")
    columns = {data["prompt_key"], "data_source", "reward_model"}
    missing = columns - set(metadata.schema.to_arrow_schema().names)
    if missing:
        return Finding(FAIL, subject, f"{path} lacks {sorted(missing)}", "Make it with data/preprocess.py.")
    problem = template_problem(path, data, tokenizer)
    if problem:
        return Finding(FAIL, subject, problem, FIX)
    return Finding(OK, subject, f"{path}, {metadata.num_rows} rows")
