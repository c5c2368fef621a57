"""MMLU-Pro: `the answer is (X)`."""

import re

from verl.sdpo.reasoning import remove_thinking
from verl.utils.reward_score.feedback.answer import grade_choice
from verl.utils.reward_score.feedback.contract import Grade, Task
from verl.utils.reward_score.feedback.extract import options, undecorated

HOW = 'Finish with "the answer is (X)", where X is the letter of one of the listed options.'

_ANSWER = re.compile(
    r"(?i:\banswer(?:\s+is)?)\s*[:\uff1a]?\s*(?i:(?:option|choice)\s+)?(?:[(\[]\s*([A-Pa-p])\s*[)\]]|([A-P])(?!\w))"
)
# In parentheses a letter may be lower case. A bare letter must be upper case and end its clause, or be followed by a
# word that begins another or by the option's text, or the article "a" and the pronoun "I" would be answers.
_END_OF_LETTER = re.compile(
    r"\s*(?:[.,;:!?)\]/&(\n]|[-\u2013\u2014]\s|\Z)"
    r"|\s+(?:or|and|because|since|which|that|as|where|given|based|due|by|from|with)\b"
)
# A second letter that belongs to the same statement. One that begins the next sentence or line belongs to it only if
# nothing but the letter stands there. After "and" or "or", "a" and "I" that a word follows are no letters.
_HEDGE = re.compile(
    r"[^\w(.;!\n]*(?i:(?:or|and)\b\W*)?\(?[A-P](?:\)|(?=\s*(?:[.,;!\n]|\Z)))"
    r"|\W*(?i:\b(?:or|and|maybe|perhaps|possibly)\b(?:\s+(?:maybe|perhaps|possibly|even|also|else)\b)?)\W*"
    r"(?:\([A-Pa-p]\)|(?![aiI](?:['\u2019]|\s+(?!(?:is|are)\b)\w))[A-Pa-p]\b)"
    r"|\W*\([A-Pa-p]\)\s*(?:[.,;!\n]|\Z)"
    r"|[^\w(.;!\n]*[A-P]\s+(?:is|are)\b"
)
# The other letters may be named to rule them out.
_OTHERS = re.compile(r"[^\w.!\n]*(?:and\s+)?((?:\(?[A-P]\)?(?:\s*,\s*(?:and\s+)?|\s+(?:and|or)\s+)?)+)\s+([^.;!\n]*)")
_WRONG = re.compile(
    r"(?i)\b(?:ruled out|wrong|incorrect|false|eliminated|excluded|impossible|fail|too)\b|\bnot\b|n't\b"
)
_NOT_WRONG = re.compile(
    r"(?i)(?:\bnot|n't|\bnever|\bhardly)\b.*\b(?:ruled|wrong|incorrect|false|eliminated|excluded|impossible|fail|too)\b"
)


def grade(task: Task) -> Grade:
    """Accept the last `answer is (X)` or `Answer: X`; there are up to 16 options."""
    text = undecorated(remove_thinking(task.response))
    listed = options(task.problem)
    found = None
    for statement in _ANSWER.finditer(text):
        letter, end = (statement[1] or statement[2]).upper(), statement.end()
        option = undecorated(listed.get(letter, ""))
        named = option and re.compile(rf"\s+{re.escape(option)}(?!\w)").match(text, end)
        if statement[1] or named or _END_OF_LETTER.match(text, end):
            found = None if _hedges(text, end) else letter
    return grade_choice(task, found=found, options="".join(listed) or "ABCDEFGHIJKLMNOP", how=HOW)


def _hedges(text: str, end: int) -> bool:
    """Return whether a second answer follows the one that ends at `end`."""
    if not _HEDGE.match(text, end):
        return False
    others = _OTHERS.match(text, end)
    return not (others and _WRONG.search(others[2]) and not _NOT_WRONG.search(others[2]))
