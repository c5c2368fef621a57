"""Find the answer inside a response: code blocks, boxed answers, option letters."""

import re
from collections.abc import Collection
from dataclasses import dataclass

from verl.sdpo.reasoning import remove_thinking
from verl.utils.reward_score.feedback.latex import SIZES

_PYTHON_TAGS = ("python", "python3", "py")


# Indentation with or without a list's markers, fence, language.
_FENCE = re.compile(r"(\s*(?:(?:[-*+]|\d{1,9}[.)])\s+)*)(`{3,})[ \t]*([^\s`]*)[^`]*$")


@dataclass(frozen=True)
class _Block:
    tag: str
    code: str


def _fenced_blocks(text: str) -> list[_Block]:
    """Return all closed Markdown blocks, by CommonMark's rules (section 4.5) but at any depth of indentation.

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


def last_python_block(response: str, names: Collection[str] = ()) -> str | None:
    """Return the last closed block that defines one of `names`, else the last one; None if there is no block.

    Blocks tagged as Python come before untagged ones. A block that only calls the solution, to show how it is used, is
    not the program.
    """
    blocks = [block for block in _fenced_blocks(remove_thinking(response)) if block.code.strip()]
    ranked = [block.code for tags in (("",), _PYTHON_TAGS) for block in blocks if block.tag in tags]
    if names:
        defined = "|".join(map(re.escape, names))
        definition = re.compile(
            rf"^\s*(?:(?:async\s+)?def|class)\s+(?:{defined})\b|^(?:{defined})\s*=[^=]", re.MULTILINE
        )
        ranked = [code for code in ranked if definition.search(code)] or ranked
    return ranked[-1] if ranked else None


def official_block(response: str) -> str | None:
    """Return the text between the last two lines with a fence, LiveCodeBench's rule (`extraction_utils.py`)."""
    lines = response.split("\n")
    fences = [i for i, line in enumerate(lines) if "```" in line]
    return "\n".join(lines[fences[-2] + 1 : fences[-1]]) if len(fences) >= 2 else None


def longest_block(response: str) -> str | None:
    """Return the longest closed block in any language, the SDPO authors' rule."""
    return max(re.findall(r"```\w*\n(.*?)```", response, re.DOTALL), key=len, default=None)


# A hedge such as `\boxed{4} or \boxed{5}`, whatever stands around the second box, is one statement of two answers;
# boxes farther apart are intermediate results.
_SAME_STATEMENT_CHARS = 40
_BOX_OR_BRACE = re.compile(r"(\\f?box(?:ed)?\s*(?:\{|\Z))|\\.|[{}]", re.DOTALL)


def boxed_answers(response: str) -> list[str]:
    """Return the different answers that the response's last statement boxes, in order; [] if it boxes nothing.

    An honest response has exactly one. Boxes that follow each other within a few words are one statement. A box that is
    opened last and never closed is that statement, so that an earlier, intermediate result is not taken for the answer.
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
    """Return (start, start of the content, end) of every innermost closed box, in one pass whatever the nesting.

    There are none if a box is opened behind the last of them.
    """
    boxes: list[tuple[int, int, int]] = []
    open_braces: list[tuple[int, int] | None] = []
    for match in _BOX_OR_BRACE.finditer(text):
        if match[1] or match[0] == "{":
            open_braces.append(match.span() if match[1] else None)
        elif match[0] == "}" and open_braces:
            box = open_braces.pop()
            if box and not (boxes and boxes[-1][0] > box[0]):
                boxes.append((*box, match.end()))
    last = boxes[-1][0] if boxes else 0
    return [] if any(box and box[0] > last for box in open_braces) else boxes


# Emphasis, quotes, and what sets a formula, a font or a size, but no text.
_DECORATION = re.compile(
    rf"[*`$\"\u201c\u201d]|(?<!\w)_+|_+(?!\w)|\\[()\[\]]|\\[a-z]+(?=\{{)|\\(?:bf|it|rm|sf|tt|{'|'.join(SIZES)})(?![a-zA-Z])|[{{}}]"
)
_SPACING = re.compile(r"\\[,:;! ]|~|\\q?quad(?![a-zA-Z])|\\(?=\})|\\\Z")


def undecorated(text: str) -> str:
    """Return `text` without Markdown's emphasis and without LaTeX's delimiters, boxes, fonts, sizes and spacing."""
    return _DECORATION.sub("", _SPACING.sub(" ", text))


_OPTION_LINE = re.compile(r"^\s*([A-P])[:.)]\s+(.*?)\s*$", re.MULTILINE)


def options(problem: str) -> dict[str, str]:
    """Return the options that `problem` lists one per line as `A: ...`, `A. ...` or `A) ...`, by their letters."""
    listed: dict[str, str] = {}
    for letter, text in _OPTION_LINE.findall(problem):
        if ord(letter) == ord("A") + len(listed):
            listed[letter] = text
    return listed if len(listed) >= 2 else {}


def option_letters(problem: str, default: str) -> str:
    """Return the letters of the options that `problem` lists, or `default` if it lists none."""
    return "".join(options(problem)) or default
