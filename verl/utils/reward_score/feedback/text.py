"""Making untrusted text fit for a chat prompt: sanitised, bounded, the same in every run."""

import re

MAX_FEEDBACK_CHARS = 2000

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
# Control, zero-width, direction and tag characters, lone surrogates. Invisible ones matter: a tokenizer's normaliser
# may drop them and so join again what is broken up below.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)
_TOKEN = re.compile(
    r"<(?=[|\uff5c])"  # <|im_end|>, and DeepSeek's full-width bars
    # Tags. Python's own <module>, <lambda>, <class '...'> are no token of any chat template.
    r"|<(?!(?:module|lambda|listcomp|genexpr|setcomp|dictcomp|locals|class '[\w.]*')>)(?=/?[A-Za-z_][^<>\s]{0,80}>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|THINK|IMG)\])"
)
_FENCE = re.compile("`{3,}")
_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+")
_HOST_PATH = re.compile(r"(?<![\w/])/(?:[\w.+@-]+/)+(?=[\w.+@-]+\.\w+)")


def sanitise(text: str) -> str:
    """Return `text` without anything that can open a chat turn or close a fence, and without memory addresses.

    Special tokens of chat templates (`<|im_end|>`, `</s>`, `<answer>`, `[INST]`, ...) are broken up by a space after
    their first character; unprintable characters become visible escapes; ANSI escapes go.
    """
    text = _ANSI.sub("", text.replace("\r\n", "\n"))
    text = _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
    text = _TOKEN.sub(lambda match: match[0] + " ", text)
    text = _FENCE.sub(lambda match: " ".join(match[0]), text)
    return _ADDRESS.sub("at 0x...", text)


def hide_directories(message: str) -> str:
    """Shorten absolute file paths of the grading machine in an error message to the file's name."""
    return _HOST_PATH.sub("", message)


def clip(text: str, limit: int) -> str:
    """Keep `limit` characters of `text`, from its head and its tail, and say how many are left out."""
    if len(text) <= limit:
        return text
    head, tail = (limit + 1) // 2, limit // 2
    return f"{text[:head]} ... ({len(text) - limit} characters left out) ... {text[len(text) - tail :]}"


def clip_lines(text: str, *, lines: int, chars: int) -> str:
    """Keep `lines` lines of `text`, from its head and its tail, each clipped to `chars` characters."""
    rows = [clip(row, chars) for row in text.split("\n")]
    if len(rows) > lines:
        head, tail = (lines + 1) // 2, lines // 2
        rows = [*rows[:head], f"... ({len(rows) - lines} lines left out) ...", *rows[len(rows) - tail :]]
    return "\n".join(rows)


def bound(text: str) -> str:
    """Cut whole lines off the end of `text` until it fits into `MAX_FEEDBACK_CHARS`."""
    if len(text) <= MAX_FEEDBACK_CHARS:
        return text
    note = "\n..."
    kept = text[: MAX_FEEDBACK_CHARS - len(note)]
    return (kept.rpartition("\n")[0] or kept) + note
