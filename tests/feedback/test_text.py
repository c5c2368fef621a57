import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl.utils.reward_score.feedback.text import (
    MAX_FEEDBACK_CHARS,
    bound,
    clip,
    clip_lines,
    hide_directories,
    sanitise,
)

TOKENS = [
    "<|im_end|>",
    "<|im_start|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "<s>",
    "</s>",
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "<tool_call>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<unused0>",
    "[INST]",
    "[/INST]",
    "```",
]


@pytest.mark.parametrize("token", TOKENS)
def test_tokens_are_broken_up(token):
    assert token not in sanitise(f"a {token}b")


@given(st.lists(st.sampled_from([*TOKENS, "<", ">", "|", "\x1b[0m", "\u200b", "\ufeff", "\r", "`", "\x00", "im_end"])))
def test_no_arrangement_makes_a_token(pieces):
    text = sanitise("".join(pieces))
    assert not [token for token in TOKENS if token in text]


@given(st.text())
def test_sanitised_text_is_printable_and_stays_so(text):
    clean = sanitise(text)
    assert "\x00" not in clean and "\x1b" not in clean
    clean.encode()
    assert sanitise(clean) == clean


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("a < b > c, x<y, y>z", "a < b > c, x<y, y>z"),
        ("Line 1 in <module>, <lambda>", "Line 1 in <module>, <lambda>"),
        ("<class 'int'>", "<class 'int'>"),
        ("a[0] [1, 2] [INF]", "a[0] [1, 2] [INF]"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("1\r\n2", "1\n2"),
        ("1\r2", "1\\r2"),
        ("\ud800", "\\ud800"),
        ("\ufeff1", "\\ufeff1"),
        ("<__main__.A object at 0x7f3a2b>", "<__main__.A object at 0x...>"),
        ("0xdeadbeef", "0xdeadbeef"),
    ],
)
def test_examples(text, clean):
    assert sanitise(text) == clean


def test_directories_are_hidden():
    message = "[Errno 13] Permission denied: '/home/me/secret/data.parquet'"
    assert hide_directories(message) == "[Errno 13] Permission denied: 'data.parquet'"
    assert hide_directories("1/2/3.5 and a/b") == "1/2/3.5 and a/b"


def test_clip_keeps_head_and_tail():
    assert clip("0123456789", 10) == "0123456789"
    assert clip("0123456789", 5) == "012 ... (5 characters left out) ... 89"
    assert clip("0123456789", 1) == "0 ... (9 characters left out) ... "


def test_clip_lines_keeps_head_and_tail():
    text = "\n".join("abcdefghi")
    assert clip_lines(text, lines=3, chars=9) == "a\nb\n... (6 lines left out) ...\ni"
    assert clip_lines(text, lines=9, chars=9) == text


@given(st.text(min_size=MAX_FEEDBACK_CHARS - 5, max_size=MAX_FEEDBACK_CHARS + 200))
def test_bound_cuts_whole_lines(text):
    bounded = bound(text)
    assert len(bounded) <= MAX_FEEDBACK_CHARS
    if bounded != text:
        kept = bounded.removesuffix("\n...")
        assert text.startswith(kept)
        assert "\n" not in kept or text[len(kept)] == "\n"
