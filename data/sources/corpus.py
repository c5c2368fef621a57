"""The verifiable corpus (arXiv 2510.04786): a mix of math, code and general questions."""

import json

from data.sources.catalog import Entry, load_catalog
from data.sources.prompts import code_prompt, describe, math_prompt

# Sources that the graders know by name; rows of other sources are graded by their kind.
GRADED = {entry.dataset for entry in load_catalog().values() if entry.dataset} | {"dapo_math"}
KINDS = ("math", "code")


def to_record(row: dict, entry: Entry) -> dict | None:
    """Turn a row of the hub into a record.

    `row`: kind, dataset, problem, description, answer, tests, elo. None for kinds that need a model as a judge.
    """
    kind, problem = row["kind"], row["problem"]
    if kind not in KINDS:
        return None
    prompt = math_prompt(problem) if kind == "math" else code_prompt(problem, json.loads(row["tests"])["time_limit"])
    return {
        "kind": kind,
        "dataset": row["dataset"] if row["dataset"] in GRADED else kind,
        "prompt": prompt,
        "description": row.get("description") or describe(problem),
        "answer": row["answer"],
        "tests": row["tests"],
        "elo": row.get("elo"),
    }
