"""MMLU-Pro: `the answer is (X)`."""

import re

from verl.sdpo.reasoning import remove_thinking
from verl.utils.reward_score.feedback.answer import grade_choice
from verl.utils.reward_score.feedback.contract import Grade, Task
from verl.utils.reward_score.feedback.extract import option_letters, undecorated

HOW = 'Finish with "the answer is (X)", where X is the letter of one of the listed options.'

# In parentheses a letter may be lower case. A bare letter must be upper case and end its clause or be followed by the
# option's text, or the article "a" and the pronoun "I" would be answers.
_ANSWER = re.compile(
    r"(?i:\banswer(?:\s+is)?)\s*[:\uff1a]?\s*(?i:(?:option|choice)\s+)?"
    r"(?:[(\[]\s*([A-Pa-p])\s*[)\]]|([A-P])(?=\s*(?:[.,:;!)/&\n]|[-\u2013\u2014]\s|\Z)|\s+(?:or|and|because|since)\b))"
)
# A second letter that belongs to the same statement. One that begins the next sentence or line belongs to it only if
# nothing but the letter stands there.
_HEDGE = re.compile(
    r"[^\w(.;!\n]*(?i:(?:or|and)\b\W*)?\(?[A-P](?:\)|(?=\s*(?:[.,;!\n]|\Z)))"
    r"|\W*(?i:\b(?:or|and)\b)\W*[A-Pa-p]\b"
    r"|\W*\([A-Pa-p]\)\s*(?:[.,;!\n]|\Z)"
)


def grade(task: Task) -> Grade:
    """Accept the last `answer is (X)` or `Answer: X`; there are up to 16 options."""
    text = undecorated(remove_thinking(task.response))
    *_, statement = None, *_ANSWER.finditer(text)
    found = None
    if statement and not _HEDGE.match(text, statement.end()):
        found = (statement[1] or statement[2]).upper()
    options = option_letters(task.problem, "ABCDEFGHIJKLMNOP")
    return grade_choice(task, found=found, options=options, how=HOW)
