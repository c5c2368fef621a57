"""GPQA: a boxed option letter."""

import re

from verl.utils.reward_score.feedback.answer import grade_choice
from verl.utils.reward_score.feedback.contract import Grade, Task
from verl.utils.reward_score.feedback.extract import boxed_answers

HOW = r"Give exactly one final answer: the letter of one of the listed options, and nothing else, inside \boxed{}."


def grade(task: Task) -> Grade:
    """Accept one boxed letter, bare or as `\\text{X}`, `(X)`; a letter in prose (the article "a") is no answer."""
    answers = boxed_answers(task.response)
    match = re.fullmatch(r"(?:\\(?:text|textbf|mathrm|mathbf)\{)?\(?([A-D])\)?[.]?\}?", answers[0]) if answers else None
    found = match[1] if match and len(answers) == 1 else None
    return grade_choice(task, found=found, options="ABCD", how=HOW)
