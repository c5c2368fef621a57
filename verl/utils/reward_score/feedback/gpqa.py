"""GPQA: a boxed option letter."""

import re

from verl.utils.reward_score.feedback.answer import grade_choice
from verl.utils.reward_score.feedback.contract import Grade, Task
from verl.utils.reward_score.feedback.extract import boxed_answers, undecorated

HOW = r"Give exactly one final answer: the letter of one of the listed options, and nothing else, inside \boxed{}."


# The letter, and perhaps the option's text after it.
_OPTION = re.compile(r"(?i:option\s+)?(?:\(([A-D])\)|([A-D])(?=[.:)]|\Z))(?P<text>.*)", re.DOTALL)
_SECOND_LETTER = re.compile(r"(?<!\w)(?:[A-D][.:)]|(?:or|and)\s+\(?[A-D]\b)")


def grade(task: Task) -> Grade:
    """Accept one boxed letter, in any font, with or without its option's text.

    A letter in prose (the article "a") or in a formula is no answer.
    """
    answers = list(dict.fromkeys(undecorated(answer).strip() for answer in boxed_answers(task.response)))
    option = _OPTION.fullmatch(answers[0]) if len(answers) == 1 else None
    found = None
    if option and not _SECOND_LETTER.search(option["text"]):
        found = option[1] or option[2]
    return grade_choice(task, found=found, options="ABCD", how=HOW)
