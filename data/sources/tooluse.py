"""Tool use (made from ToolAlpaca): records that the authors of SDPO ship ready-made, in the unified format."""

import json

from data.records import DataError
from data.sources.catalog import Entry

ORIGIN = "https://github.com/lasgroup/SDPO, files datasets/tooluse/train.json and datasets/tooluse/test.json"
KEPT = ("idx", "prompt", "system", "answer", "elo")


def to_record(row: dict, entry: Entry) -> dict:
    """Turn a row of the hub into a record.

    `row`: a shipped record; its `answer` is a JSON list of {Action, Action_Input}. Keeps its `idx`.
    """
    try:
        calls = json.loads(row["answer"])
        complete = bool(calls) and all({"Action", "Action_Input"} <= call.keys() for call in calls)
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError):
        complete = False
    if not complete or not row.get("prompt"):
        raise DataError(
            f"not a tooluse record of {ORIGIN}: needs a prompt and an answer that lists Action, Action_Input."
        )
    return {key: row[key] for key in KEPT} | {"description": row["prompt"]}
