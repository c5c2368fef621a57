"""CodeElo (arXiv 2501.01257): Codeforces problems whose only public tests are the examples of the statement."""

from data.sources.catalog import Entry
from data.sources.codeforces import as_html
from data.sources.prompts import code_prompt, tests_json


def to_record(row: dict, entry: Entry) -> dict:
    """Turn a row of the hub into a record.

    `row`: title, description, input, output, interaction, note, examples [[input, output]], time_limit_ms.
    """
    time_limit = row["time_limit_ms"] / 1000
    sections = {
        "Description": row["description"],
        "Input": row["input"],
        "Output": row["output"],
        "Interaction": row["interaction"],
        "Note": row["note"],
    }
    inputs, outputs = (list(column) for column in zip(*row["examples"], strict=True))
    return {
        "prompt": code_prompt(as_html(row["title"], time_limit, sections), time_limit),
        "description": row["description"],
        "tests": tests_json(inputs, outputs, "stdin", time_limit=time_limit),
        "elo": row["rating"],
    }
