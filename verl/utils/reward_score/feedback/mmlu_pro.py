"""MMLU-Pro: `the answer is (X)`."""

import re

from verl.sdpo.reasoning import remove_thinking
from verl.utils.reward_score.feedback.answer import grade_choice
from verl.utils.reward_score.feedback.contract import Grade, Task
from verl.utils.reward_score.feedback.extract import option_letters

HOW = 'Finish with "the answer is (X)", where X is the letter of one of the listed options.'

# In parentheses a letter may be lower case, but no second one may follow. A bare letter must be upper case and end its
# clause, or the article "a" and the pronoun "I" would be answers.
_ANSWER = re.compile(
    r"(?i:\banswer(?:\s+is)?)\s*:?\s*[*$]*(?:\\boxed\{)?"
    r"(?:\(\s*([A-Pa-p])\s*\)(?!\W*(?:or|and)?\W*\([A-Pa-p]\))|([A-P])(?=[*$}]*\s*(?:[.;!]|\n|\Z)))"
)


def grade(task: Task) -> Grade:
    """Accept the last `answer is (X)` or `Answer: X`; there are up to 16 options."""
    answers = [
        (in_parentheses or bare).upper() for in_parentheses, bare in _ANSWER.findall(remove_thinking(task.response))
    ]
    options = option_letters(task.problem, "ABCDEFGHIJKLMNOP")
    return grade_choice(task, found=answers[-1] if answers else None, options=options, how=HOW)
