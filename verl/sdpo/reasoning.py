"""Separate the answer of a response from its reasoning; shared by the graders and the teacher's prompt.

Standard library only.
"""

import re

# A tag counts unless the text only quotes it: inside a closed Markdown block, or between quotes or backticks on one
# line. A quote has no word character before its opening and after its closing mark, so that the apostrophes of "don't"
# and "it's" are no quotes. A block holds no other fence, because a draft that was never closed must not hide the tag
# that follows it. The bound of 1000 characters keeps the time linear.
_TAG_OR_QUOTED = re.compile(
    r"(?:^|(?<=</think>))[ \t]*(?P<fence>`{3,})[^`\n]*\n(?:(?![ \t]*`{3}).*\n)*?[ \t]*(?P=fence)`*[ \t]*$"
    r"""|(?<!\w)[fbru]{0,2}(?P<quote>["']|(?<!`)`(?!`))(?:\\.|(?!(?P=quote)(?!\w))[^\n\\]){0,1000}(?P=quote)(?!\w)"""
    r"|(?P<tag></?think>)",
    re.MULTILINE,
)
_BLANKS = re.compile(r"[ \t]*\n*")


def remove_thinking(response: str) -> str:
    """Return a response without its `<think>...</think>`.

    A `</think>` without its `<think>` (the chat template opened the reasoning) ends a reasoning that began with the
    response. A `<think>` that is never closed begins one that reaches the end.
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
