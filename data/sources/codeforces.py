"""Codeforces problems with their official tests (open-r1/codeforces)."""

from data.sources.catalog import Entry
from data.sources.prompts import code_prompt, tests_json

# Codeforces' most common limit, for the rows that have none.
DEFAULT_TIME_LIMIT = 2.0


def to_record(row: dict, entry: Entry) -> dict | None:
    """Turn a row of the hub into a record.

    `row`: title, description, input_format, ..., official_tests [{input, output}]; None if it has no such test.
    """
    tests = row["official_tests"]
    if not tests:
        return None
    time_limit = row["time_limit"] or DEFAULT_TIME_LIMIT
    sections = {
        "Description": row["description"],
        "Input Format": row["input_format"],
        "Output Format": row["output_format"],
        "Interaction": row["interaction_format"],
        "Note": row["note"],
        "Editorial": row["editorial"],
    }
    return {
        "prompt": code_prompt(as_html(row["title"], time_limit, sections), time_limit),
        "description": row["description"],
        "tests": tests_json(
            [test["input"] for test in tests], [test["output"] for test in tests], "stdin", time_limit=time_limit
        ),
        "elo": row["rating"],
    }


def as_html(title: str, time_limit: float, sections: dict[str, str | None]) -> str:
    """Return the statement with a heading per section; empty sections and examples are left out on purpose."""
    parts = [f"<h1>{title}</h1>", f"<p>Time limit per test: {time_limit:g} s</p>"]
    parts += [f"<h2>{heading}</h2>\n{text}" for heading, text in sections.items() if text]
    return "\n".join(parts)
