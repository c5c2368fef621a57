"""MMLU-Pro (arXiv 2406.01574), prompted without examples."""

from string import ascii_uppercase

from data.sources.catalog import Entry


def to_record(row: dict, entry: Entry) -> dict:
    """Turn a row of the hub into a record.

    `row`: question, options (up to 16), answer (a letter), category.
    """
    options = "\n".join(f"{letter}. {option}" for letter, option in zip(ascii_uppercase, row["options"], strict=False))
    return {
        "prompt": (
            f"The following is a multiple choice question about {row['category']}. Think step by step and then finish "
            'your answer with "the answer is (X)" where X is the letter of the correct option.\n\n'
            f"Question: {row['question']}\nOptions:\n{options}\nAnswer: Let's think step by step."
        ),
        "description": row["question"],
        "answer": row["answer"],
    }
