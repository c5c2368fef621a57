"""GPQA diamond (arXiv 2311.12022)."""

import random

from data.sources.catalog import Entry
from data.sources.prompts import options_alike


def to_record(row: dict, entry: Entry) -> dict:
    """Turn a row of the hub into a record.

    `row`: Question, Correct Answer, Incorrect Answer 1 to 3, Record ID.
    """
    options = options_alike([row["Correct Answer"], *(row[f"Incorrect Answer {number}"] for number in (1, 2, 3))])
    correct = options[0]
    # Seeded by the question, so that the order does not depend on the machine, the run or the other rows.
    random.Random(row["Record ID"]).shuffle(options)
    listed = " ".join(f"{letter}) {option}" for letter, option in zip("ABCD", options, strict=True))
    question = row["Question"].strip()
    return {
        "prompt": (
            "Answer the following multiple choice question. Think step by step, then give the letter of the correct "
            "option (A, B, C or D) within \\boxed{}.\n\n"
            f"Problem: {question}\nOptions: {listed}\nAnswer:"
        ),
        "description": question,
        "answer": "ABCD"[options.index(correct)],
    }
