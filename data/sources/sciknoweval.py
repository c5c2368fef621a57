"""SciKnowEval (arXiv 2406.09098), multiple choice."""

from data.sources.catalog import Entry

# Verbatim the text of the published splits, two-choice questions included, so that results stay comparable.
SYSTEM = """
Given a question and four options, please select the right answer. Respond in the following format:
<reasoning>
...
</reasoning>
<answer>
...
</answer>

For the answer, only output the letter corresponding to the correct option (A, B, C, or D), and nothing else. \
Do not restate the answer text. For example, if the answer is "A", just output:
<answer>
A
</answer>
"""


def to_record(row: dict, entry: Entry) -> dict:
    """Turn a row of the hub into a record.

    `row`: question, choices {text, label}, answerKey.
    """
    choices = row["choices"]
    # As published, uneven full stops included, which mark one option alone in at most 3 of 841 rows of a split.
    options = "\n".join(f"{label}: {text}" for label, text in zip(choices["label"], choices["text"], strict=True))
    return {
        "system": SYSTEM,
        "prompt": f"{row['question']}\n\n{options}\nPlease reason step by step.",
        "description": row["question"],
        "answer": row["answerKey"],
        "elo": 1500,
    }
