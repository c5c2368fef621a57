import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl.sdpo.reasoning import remove_thinking

BLOCK = "```python\nprint(2)\n```"
UNTAGGED = "```\nprint(2)\n```"


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("<think>hm</think>\n\n3", "3"),
        ("A <think>x</think> B <think>y\nz</think>C", "A B C"),
        ("opened by the template</think>\n3", "3"),
        ("a</think>b</think> c", "c"),
        ("<think>a<think>b</think>c</think>d", "d"),
        ("  no thinking \n", "  no thinking \n"),
        ("<think>only</think>", ""),
        ("<think>x</think>\n    indented", "    indented"),
        (f"<think>```python\nwrong\n```</think>{BLOCK}", BLOCK),
        ("I don't know</think>It's B", "It's B"),
        ("<think>He said \"x\" and 'y', or `z`</think>4", "4"),
        (f"<think>Draft:\n```python\nprint(1)\n</think>\n{BLOCK}", BLOCK),
        (f"Draft:\n```\nprint(1)\n</think>\n{UNTAGGED}", UNTAGGED),
        (f"<think>Draft:\n```\nprint(1)\n</think>\n{UNTAGGED}\nand\n{UNTAGGED}", f"{UNTAGGED}\nand\n{UNTAGGED}"),
        (
            '<think>The side is 5" long and "unknown ...</think>The answer is 4, that is "four"',
            'The answer is 4, that is "four"',
        ),
        ("<think>Use ` as a tick</think>4 (`four`).", "4 (`four`)."),
        ("<think>'tis 4</think>The answer is 'four'.", "The answer is 'four'."),
        ('Option "A seems wrong.</think>The answer is (B), "item 1".', 'The answer is (B), "item 1".'),
        ("[THINK]Perhaps 5? No.[/THINK]It is 4.", "It is 4."),
        ("[THINK]never closed", ""),
        ("<|channel|>analysis<|message|>Perhaps 5<|end|><|start|>assistant<|channel|>final<|message|>4<|return|>", "4"),
        ("analysisWe need 5? No.assistantfinalIt is 4.", "It is 4."),
        ("analysis of the final state: 4", "analysis of the final state: 4"),
    ],
)
def test_only_the_answer_is_left(text, rest):
    assert remove_thinking(text) == rest


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("<think>never closed", ""),
        ("Well. <think>never closed", "Well. "),
        ("<think>a</think>3 <think>let me check", "3 "),
        ('<think>I end with "</think>" then. 4', ""),
        ("<think>The tag `</think>` comes last. 4", ""),
    ],
)
def test_reasoning_that_never_closes_holds_no_answer(text, rest):
    assert remove_thinking(text) == rest


@pytest.mark.parametrize(
    "answer",
    [
        "print('<think>x</think>')",
        'print(f"</think>")',
        r"x = '\'</think>'",
        '{"text": "use </think> to close", "n": 1}',
        "Begin with `<think>`.",
        '```python\ns = """\n</think>\n"""\n```',
        "````\n<think>\n````",
        "In XML:\n  ```xml\n  <think>\n  ```\nfour",
    ],
)
@pytest.mark.parametrize("before", ["", "<think>hm</think>", "opened by the template\n</think>\n\n"])
def test_a_quoted_tag_is_text(answer, before):
    assert remove_thinking(before + answer) == answer


@given(
    st.text() | st.lists(st.sampled_from(["<think>", "</think>", "'", '"', "`", "```", "\n", " ", "a"])).map("".join)
)
def test_of_arbitrary_text_parts_are_left_out_and_nothing_is_added(text):
    rest = iter(text)
    assert all(character in rest for character in remove_thinking(f"<think>hm</think>{text}"))


@pytest.mark.parametrize("text", ["'a " * 20_000, "```\n" * 20_000, "<think>" * 10_000, '" ' * 20_000])
def test_long_text_takes_no_time(text):
    started = time.process_time()
    remove_thinking(f"{text}</think>")
    assert time.process_time() - started < 10
