"""Multiple choice with an answer tag (SciKnowEval)."""

import re

from verl.sdpo.reasoning import remove_thinking
from verl.utils.reward_score.feedback.answer import grade_choice
from verl.utils.reward_score.feedback.contract import Grade, Task
from verl.utils.reward_score.feedback.extract import option_letters

HOW = (
    "End the response with exactly one answer tag: the letter of one of the listed options, and nothing else, "
    "between <answer> and </answer>."
)


def grade(task: Task) -> Grade:
    """Accept exactly one `<answer>X</answer>`, at the end of the response; prose is never searched for a letter."""
    text = remove_thinking(task.response)
    match = re.search(r"<answer>\s*([A-Z])\s*</answer>\s*\Z", text)
    once = text.count("<answer>") == text.count("</answer>") == 1
    found = match[1] if match and once else None
    return grade_choice(task, found=found, options=option_letters(task.problem, "ABCD"), how=HOW)
