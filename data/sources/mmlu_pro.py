"""MMLU-Pro (arXiv 2406.01574), prompted without examples."""

from string import ascii_uppercase

from data.sources.catalog import Entry
from data.sources.prompts import options_alike


def to_record(row: dict, entry: Entry) -> dict:
    """Turn a row of the hub into a record.

    `row`: question, options (up to 16), answer (a letter), category.
    """
    listed = zip(ascii_uppercase, options_alike(row["options"]), strict=False)
    options = "\n".join(f"{letter}. {option}" for letter, option in listed)
    return {
        "prompt": (
            f"The following is a multiple choice question about {row['category']}. Think step by step and then finish "
            'your answer with "the answer is (X)" where X is the letter of the correct option.\n\n'
            f"Question: {row['question']}\nOptions:\n{options}\nAnswer: Let's think step by step."
        ),
        "description": row["question"],
        "answer": row["answer"],
    }
