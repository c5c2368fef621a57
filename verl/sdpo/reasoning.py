"""Separate the answer of a response from its reasoning; shared by the graders and the teacher's prompt.

Standard library only.
"""

import re

# A tag counts unless the text only quotes it: inside a closed Markdown block, or between quotes or backticks on one
# line. A quote has no word character before its opening and after its closing mark, no blank inside of either, and no
# third mark between them, so that the apostrophes of "don't" and "it's", a mark for inches and a lone quote
# are none. A block holds no other fence, because a draft that was never closed must not hide the tag that follows it.
# The bound of 1000 characters keeps the time linear.
_LINE_START = r"(?:^|(?<=<think>)|(?<=</think>)|(?<=\[THINK\])|(?<=\[/THINK\]))"
_TAG_OR_QUOTED = re.compile(
    rf"{_LINE_START}[ \t]*(?P<fence>`{{3,}})[^`\n]*\n(?P<block>(?:(?![ \t]*`{{3}}).*\n)*?)"
    r"[ \t]*(?P=fence)`*[ \t]*$"
    r"""|(?<!\w)[fbru]{0,2}(?P<quote>["']|(?<!`)`(?!`))(?=\S)(?:\\.|(?!(?P=quote))[^\n\\]){0,1000}"""
    r"""(?<!\s)(?P=quote)(?!\w)"""
    r"|(?P<opens><think>|\[THINK\])|(?P<closes></think>|\[/THINK\])",
    re.MULTILINE,
)
_FENCE = re.compile(rf"{_LINE_START}[ \t]*`{{3,}}", re.MULTILINE)
_CLOSES_ON_ITS_LINE = re.compile(r"^[ \t]*(?:</think>|\[/THINK\])", re.MULTILINE)
# gpt-oss, with its special tokens and without: reasoning, perhaps a tool call, then the answer.
_FINAL_CHANNEL = re.compile(
    r"\A.*<\|channel\|>final(?:(?!<\|message\|>).)*<\|message\|>|\Aanalysis(?=\S).*assistantfinal", re.DOTALL
)
_SPECIAL_TOKEN_AT_END = re.compile(r"<\|(?:end|return)\|>\s*\Z")
_BLANKS = re.compile(r"[ \t]*\n*")


def remove_thinking(response: str) -> str:
    """Return a response without its reasoning: `<think>...</think>`, or the tags of other models.

    A `</think>` without its `<think>` (the chat template opened the reasoning) ends a reasoning that began with the
    response. A `<think>` that is never closed begins one that reaches the end. Magistral's `[THINK]...[/THINK]` is read
    alike; of gpt-oss's channels the final one is left.
    """
    if final := _FINAL_CHANNEL.match(response):
        return _SPECIAL_TOKEN_AT_END.sub("", response[final.end() :])
    if "think>" not in response and "THINK]" not in response:
        return response
    kept: list[str] = []
    start, position, reasoning = 0, 0, False
    while match := _TAG_OR_QUOTED.search(response, position):
        position = match.end()
        if match["opens"]:
            if not reasoning:
                kept.append(response[start : match.start()])
            reasoning = True
        elif match["closes"] or _draft_ends_in(match, response):
            if not match["closes"]:
                position = _CLOSES_ON_ITS_LINE.search(response, match.start("block")).end()  # type: ignore[union-attr]
            if not reasoning:
                kept.clear()
            start, reasoning = _BLANKS.match(response, position).end(), False  # type: ignore[union-attr]
    return "".join(kept) if reasoning else "".join(kept) + response[start:]


def _draft_ends_in(match: re.Match, response: str) -> bool:
    """Return whether a block is none: reasoning with an unclosed fence, its end, and the opening of the next block.

    Then the fences behind the tag are pairs.
    """
    tag = match["block"] and _CLOSES_ON_ITS_LINE.search(match["block"])
    if not tag or re.search(r"<think>|\[THINK\]", match["block"][: tag.start()]):
        return False
    return len(_FENCE.findall(response, match.start("block") + tag.end())) % 2 == 0
