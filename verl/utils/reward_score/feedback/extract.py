"""Finding the answer inside a response: code blocks, boxed answers, option letters."""

import re
from dataclasses import dataclass

from verl.sdpo.reasoning import remove_thinking

_PYTHON_TAGS = ("python", "python3", "py")


# Indentation with or without a list's markers, fence, language.
_FENCE = re.compile(r"(\s*(?:(?:[-*+]|\d{1,9}[.)])\s+)*)(`{3,})[ \t]*([^\s`]*)[^`]*$")


@dataclass(frozen=True)
class _Block:
    tag: str
    code: str


def _fenced_blocks(text: str) -> list[_Block]:
    """All closed Markdown blocks, by CommonMark's rules (section 4.5) but at any depth of indentation.

    A fence longer than three backticks closes only with one at least as long. The content loses the indentation of its
    fence, which may also be the marker of a list.
    """
    blocks: list[_Block] = []
    rows: list[str] = []
    indentation = fence = tag = ""
    for line in text.split("\n"):
        match = _FENCE.match(line)
        if not fence:
            if match:
                indentation, fence, tag, rows = match[1], match[2], match[3].lower(), []
        elif match and not match[1].strip() and not match[3] and len(match[2]) >= len(fence):
            blocks.append(_Block(tag, "\n".join(rows)))
            fence = ""
        else:
            rows.append(re.sub(rf"^\s{{0,{len(indentation)}}}", "", line))
    return blocks


def last_python_block(response: str) -> str | None:
    """The last closed block tagged as Python, else the last untagged one, else None."""
    blocks = _fenced_blocks(remove_thinking(response))
    for tags in (_PYTHON_TAGS, ("",)):
        for block in reversed(blocks):
            if block.tag in tags and block.code.strip():
                return block.code
    return None


def official_block(response: str) -> str | None:
    """LiveCodeBench's rule: the text between the last two lines that contain a fence (`extraction_utils.py`)."""
    lines = response.split("\n")
    fences = [i for i, line in enumerate(lines) if "```" in line]
    return "\n".join(lines[fences[-2] + 1 : fences[-1]]) if len(fences) >= 2 else None


def longest_block(response: str) -> str | None:
    """The SDPO authors' rule: the longest closed block in any language."""
    return max(re.findall(r"```\w*\n(.*?)```", response, re.DOTALL), key=len, default=None)


# A hedge such as `\boxed{4} or \boxed{5}`, whatever stands around the second box, is one statement of two answers;
# boxes farther apart are intermediate results.
_SAME_STATEMENT_CHARS = 40
_BOX_OR_BRACE = re.compile(r"(\\f?box(?:ed)?\s*\{)|\\.|[{}]", re.DOTALL)


def boxed_answers(response: str) -> list[str]:
    """The different answers that the response's last statement boxes, in order; [] if it boxes nothing.

    An honest response has exactly one. Boxes that follow each other within a few words are one statement.
    """
    text = remove_thinking(response)
    answers: list[str] = []
    start_of_next = None
    for start, content_start, end in reversed(_closed_boxes(text)):
        if start_of_next is not None and len(text[end:start_of_next].strip()) > _SAME_STATEMENT_CHARS:
            break
        start_of_next = start
        content = text[content_start : end - 1].strip()
        if content and content not in answers:
            answers.insert(0, content)
    return answers


def _closed_boxes(text: str) -> list[tuple[int, int, int]]:
    """(start, start of the content, end) of every innermost box that is closed; one pass, whatever the nesting."""
    boxes: list[tuple[int, int, int]] = []
    open_braces: list[tuple[int, int] | None] = []
    for match in _BOX_OR_BRACE.finditer(text):
        if match[0].endswith("{") and match[0] != "\\{":
            open_braces.append(match.span() if match[1] else None)
        elif match[0] == "}" and open_braces:
            box = open_braces.pop()
            if box and not (boxes and boxes[-1][0] > box[0]):
                boxes.append((*box, match.end()))
    return boxes


# Emphasis, quotes, and what sets a formula or a font, but no text.
_DECORATION = re.compile(r"[*`$\"\u201c\u201d]|(?<!\w)_+|_+(?!\w)|\\[()\[\]]|\\[a-z]+(?=\{)|[{}]")


def undecorated(text: str) -> str:
    """`text` without Markdown's emphasis and without LaTeX's delimiters, boxes and fonts."""
    return _DECORATION.sub("", text)


def option_letters(problem: str, default: str) -> str:
    """The letters of the options that `problem` lists one per line as `A: ...`, `A. ...` or `A) ...`."""
    letters = ""
    for letter in re.findall(r"^\s*([A-P])[:.)]\s", problem, re.MULTILINE):
        if ord(letter) == ord("A") + len(letters):
            letters += letter
    return letters if len(letters) >= 2 else default
