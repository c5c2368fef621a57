"""GPQA: a boxed option letter."""

import re

from verl.utils.reward_score.feedback.answer import grade_choice
from verl.utils.reward_score.feedback.contract import Grade, Task
from verl.utils.reward_score.feedback.extract import boxed_answers, undecorated

HOW = r"Give exactly one final answer: the letter of one of the listed options, and nothing else, inside \boxed{}."


# The letter, and perhaps the option's text after a sign or in parentheses.
_OPTION = re.compile(
    r"(?i:option\s+)?(?:\(([A-D])\)|([A-D])(?=[.:)]|\Z|\s*[,;]\s|\s+[-\u2013\u2014]\s|\s*\())(?P<text>.*)", re.DOTALL
)
_SECOND_LETTER = re.compile(r"(?<!\w)(?:[A-D][.:)]|(?:or|and)\s+\(?[A-D]\b)")
# After a comma, a dash or in parentheses a letter alone is an option too: (C, D) is a hedge.
_LETTER_AFTER_SIGN = re.compile(r"\s*[,;(\u2013\u2014-].*?(?<!\w)[A-D](?![\w'])", re.DOTALL)


def grade(task: Task) -> Grade:
    """Accept one boxed letter, in any font and size, with or without its option's text.

    A letter in prose (the article "a") or in a formula is no answer.
    """
    answers = list(dict.fromkeys(" ".join(undecorated(answer).split()) for answer in boxed_answers(task.response)))
    option = _OPTION.fullmatch(answers[0]) if len(answers) == 1 else None
    found = _option_with_its_text(answers[0], task.problem) if len(answers) == 1 else None
    if (
        not found
        and option
        and not _SECOND_LETTER.search(option["text"])
        and not _LETTER_AFTER_SIGN.match(option["text"])
    ):
        found = option[1] or option[2]
    return grade_choice(task, found=found, options="ABCD", how=HOW)


def _option_with_its_text(answer: str, problem: str) -> str | None:
    """Return the letter that begins `answer`, if the rest is exactly the text that `problem` gives this option."""
    match = re.fullmatch(r"\(?([A-D])(?![\w'])[\s.:),;(\u2013\u2014-]*(.+?)\)?", answer)
    listed = " ".join(undecorated(problem).split())
    given = match and re.search(rf"\b{match[1]}\) {re.escape(match[2])}(?= [A-D]\) | Answer:)", listed)
    return match[1] if match and given else None
