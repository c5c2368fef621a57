"""The doctor's look at the data."""

from collections.abc import Iterator, Mapping

from verl.sdpo.adapters.data import local_files
from verl.sdpo.doctor.finding import FAIL, OK, Finding, describe


def check_data(data: Mapping, key: str) -> Iterator[Finding]:
    """Whether the parquet files of `data.<key>` are there and have the columns that verl and the graders read."""
    import pyarrow.lib
    import pyarrow.parquet as pq

    if data["custom_cls"]["path"]:
        yield Finding(OK, f"data {key.split('_')[0]}", f"read by {data['custom_cls']['path']}, not looked at")
        return
    columns = {data["prompt_key"], data["reward_fn_key"], "reward_model"}
    for path in local_files(data, key):
        subject = f"data {key.split('_')[0]}"
        if not path.is_file():
            fix = f"Make it (data/README.md), or set vars.dir and vars.task, or data.{key}."
            yield Finding(FAIL, subject, f"{path} is not there", fix)
            continue
        try:
            metadata = pq.read_metadata(path)
        except (pyarrow.lib.ArrowException, OSError) as error:
            yield Finding(FAIL, subject, f"{path}: {describe(error)}", "Make it again: data/README.md.")
            continue
        missing = columns - set(metadata.schema.to_arrow_schema().names)
        if missing:
            yield Finding(FAIL, subject, f"{path} lacks {sorted(missing)}", "Make it with data/preprocess.py.")
        else:
            yield Finding(OK, subject, f"{path}, {metadata.num_rows} rows")
