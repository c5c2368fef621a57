"""Tells a response's answer from its reasoning; shared by the graders and the teacher's prompt.

Standard library only.
"""

import re

# A tag counts unless the text only quotes it: inside a closed Markdown block, or between quotes or backticks on one
# line. A quote opens before and closes after what is no word, so that the apostrophes of "don't" and "it's" are none.
# A block's content holds no other fence: a draft that was never closed must not hide the tag that follows it. The bound
# keeps the time linear.
_TAG_OR_QUOTED = re.compile(
    r"(?:^|(?<=</think>))[ \t]*(?P<fence>`{3,})[^`\n]*\n(?:(?![ \t]*`{3}).*\n)*?[ \t]*(?P=fence)`*[ \t]*$"
    r"""|(?<!\w)[fbru]{0,2}(?P<quote>["']|(?<!`)`(?!`))(?:\\.|(?!(?P=quote)(?!\w))[^\n\\]){0,1000}(?P=quote)(?!\w)"""
    r"|(?P<tag></?think>)",
    re.MULTILINE,
)
_BLANKS = re.compile(r"[ \t]*\n*")


def remove_thinking(response: str) -> str:
    """What a response says outside its `<think>...</think>`.

    A `</think>` without its `<think>` (the chat template opened the reasoning) ends with it all that came before. A
    `<think>` that is never closed hides all that follows.
    """
    if "think>" not in response:
        return response
    kept: list[str] = []
    start, reasoning = 0, False
    for match in _TAG_OR_QUOTED.finditer(response):
        if match["tag"] == "<think>":
            if not reasoning:
                kept.append(response[start : match.start()])
            reasoning = True
        elif match["tag"] == "</think>":
            if not reasoning:
                kept.clear()
            start, reasoning = _BLANKS.match(response, match.end()).end(), False  # type: ignore[union-attr]
    return "".join(kept) if reasoning else "".join(kept) + response[start:]
