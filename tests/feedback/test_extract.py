import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl.utils.reward_score.feedback.extract import (
    boxed_answers,
    last_python_block,
    longest_block,
    official_block,
    option_letters,
)


@pytest.mark.parametrize(
    ("response", "code"),
    [
        ("no code", None),
        ("```python\nprint(1)\n```", "print(1)"),
        ("```python\na\n```\ntext\n```python\nb\n```", "b"),
        ("```python\na\n```\nIt prints\n```\n5\n```", "a"),
        ("```\na\n```", "a"),
        ("```cpp\na\n```", None),
        ("``` Python \na\n```", "a"),
        ("```python\nunterminated", None),
        ("```python\na\n```\n```python\nunterminated", "a"),
        ("````python\ns = '''\n```\n'''\n````", "s = '''\n```\n'''"),
        ("  ```python\n  a\n  ```", "a"),
        ("1. So:\n    ```python\n    if a:\n        b\n    c\n    ```", "if a:\n    b\nc"),
        ("  ```python\n  a\nless\n\n    more\n```", "a\nless\n\n  more"),
        ("\t```python\n\tif a:\n\t\tb\n\t```", "if a:\n\tb"),
        ("1. ```python\n   if a:\n       b\n   ```", "if a:\n    b"),
        ("- Run\n  ```\n  a\n  ```\n  and see", "a"),
        ("```python\n  a\n  ```", "  a"),
        ("<think>```python\nonly draft\n```", None),
        ("```python\nprint('</think>')\n```", "print('</think>')"),
        ("```python\n\n```", None),
        ("<think>```python\nwrong\n```</think>```python\nright\n```", "right"),
        ("<think>```python\nonly thought\n```</think>done", None),
        ("```python\r\nprint(1)\r\n```\r\n", "print(1)\r"),
    ],
)
def test_last_python_block(response, code):
    assert last_python_block(response) == code


SOLUTION = "```python\ndef f(x):\n    return x\n```\n"


@pytest.mark.parametrize(
    ("response", "code"),
    [
        (SOLUTION + "```python\nprint(f(1))\n```", "def f(x):\n    return x"),
        (SOLUTION + "```python\nclass S:\n    def f(self): pass\n```", "class S:\n    def f(self): pass"),
        (SOLUTION + "```python\nf = abs\n```", "f = abs"),
        (SOLUTION + "```python\nfor f in []: pass\n```", "def f(x):\n    return x"),
        (SOLUTION + "```python\ndef ff(): f(1)\n```", "def f(x):\n    return x"),
        ("```\ndef f(): pass\n```\n```python\nprint(f())\n```", "def f(): pass"),
        ("```python\nprint(1)\n```\n```python\nprint(2)\n```", "print(2)"),
        ("<think>" + SOLUTION + "</think>```python\nprint(f(1))\n```", "print(f(1))"),
    ],
)
def test_a_block_that_only_calls_the_solution_is_not_the_program(response, code):
    assert last_python_block(response, {"f"}) == code


@pytest.mark.parametrize(
    ("response", "code"),
    [
        ("no code", None),
        ("```python\na\n```", "a"),
        ("```python\na\n```\nIt prints\n```\n5\n```", "5"),
        ("```python\na\n```\n```python\nunterminated", ""),
        ("```cpp\na\n```", "a"),
        ("x ``` y\na\nz ```", "a"),
    ],
)
def test_official_block_takes_what_is_between_the_last_two_fences(response, code):
    assert official_block(response) == code


def test_longest_block_takes_any_language():
    assert longest_block("```python\na\n```\n```text\nlonger\n```") == "longer\n"
    assert longest_block("none") is None


@pytest.mark.parametrize(
    ("response", "answers"),
    [
        ("no box", []),
        (r"\boxed{5}", ["5"]),
        (r"\boxed{\frac{1}{2}}", [r"\frac{1}{2}"]),
        (r"\boxed{\{1, 2\}}", [r"\{1, 2\}"]),
        (r"\boxed{3}, and after much more text that is no hedge at all we get \boxed{5}", ["5"]),
        (r"\boxed{4} or \boxed{5}", ["4", "5"]),
        ("\\[\\boxed{4}\\]\n\nor\n\n\\[\\boxed{5}\\]", ["4", "5"]),
        (r"\boxed{5} that is \boxed{5}", ["5"]),
        (r"\boxed{\boxed{5}}", ["5"]),
        (r"\boxed{}", []),
        (r"\boxed{5", []),
        (r"} \boxed{5} {", ["5"]),
        (r"\fbox{5}", ["5"]),
        (r"<think>\boxed{4}</think> \boxed{5}", ["5"]),
        (r"first \boxed{12}, so the final answer is \boxed{15", []),
        (r"first \boxed{12}, so the final answer is \boxed{\frac{12}{5}.", []),
        (r"first \boxed{12}, so the final answer is \boxed{", []),
        (r"first \boxed{12}, so the final answer is \boxed", []),
        (r"first \boxed{12, so the final answer is \boxed{15}", ["15"]),
    ],
)
def test_boxed_answers(response, answers):
    assert boxed_answers(response) == answers


def test_boxes_take_linear_time():
    assert boxed_answers("\\boxed{" * 200_000) == []
    assert boxed_answers("\\boxed{" * 100_000 + "5" + "}" * 100_000) == ["5"]


@pytest.mark.parametrize(
    ("problem", "letters"),
    [
        ("Which?\n\nA: x\nB: y\nPlease reason step by step.", "AB"),
        ("Q\nOptions:\nA. x\nB. y\nC. z\n", "ABC"),
        ("A) x\nB) y", "AB"),
        ("A: alone", "ABCD"),
        ("", "ABCD"),
        ("B: y\nC: z", "ABCD"),
    ],
)
def test_option_letters(problem, letters):
    assert option_letters(problem, "ABCD") == letters


@settings(deadline=None)
@given(st.text() | st.text(alphabet="`\n python<think>/\\boxed{}", max_size=300))
def test_arbitrary_text_never_raises(text):
    for extract in (last_python_block, official_block, longest_block, boxed_answers):
        extract(text)
    option_letters(text, "ABCD")


@settings(deadline=None)
@given(st.text(alphabet=st.characters(exclude_characters="`\n\r")))
def test_a_one_line_program_survives_every_rule(line):
    response = f"text\n```python\nx = 1\n{line}\n```\n"
    expected = f"x = 1\n{line}"
    assert last_python_block(response.replace("</think>", "")) == expected.replace("</think>", "")
    assert official_block(response) == expected
    assert longest_block(response) == expected + "\n"
