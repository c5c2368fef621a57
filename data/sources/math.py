"""Math problems with a short answer: AIME, AMC, MATH-500, GSM8K."""

import re

from data.records import DataError
from data.sources.catalog import Entry
from data.sources.prompts import math_prompt

_BOXED = re.compile(r"\\boxed\{(.*)\}", re.DOTALL)


def to_record(row: dict, entry: Entry) -> dict:
    """Turn a row of the hub into a record.

    `row`: problem or question, and its answer: `answer`, `solution` (AIME 2024) or the end of `answer` (GSM8K).
    """
    problem = row["problem"] if "problem" in row else row["question"]
    return {"prompt": math_prompt(problem), "description": problem, "answer": _answer(row, entry)}


def _answer(row: dict, entry: Entry) -> str:
    if entry.dataset == "gsm8k":
        # All of it: a sign and thousands separators belong to the number.
        _, found, answer = row["answer"].rpartition("####")
        if not found or not answer.strip():
            raise DataError(f"no answer after '####' in {row['answer'][-80:]!r}.")
        return answer.strip()
    if entry.dataset == "aime24":
        boxed = _BOXED.fullmatch(row["solution"].strip())
        return boxed.group(1) if boxed else row["solution"].strip()
    # AMC's answers are stored as floating point numbers (27.0).
    return str(row["answer"]).removesuffix(".0") if isinstance(row["answer"], float) else str(row["answer"])
