"""Snapshots of code feedback: every verdict, both styles."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.feedback.test_text import TOKENS
from verl.utils.reward_score.feedback.contract import Reveal, Verdict
from verl.utils.reward_score.feedback.render import Failure, View, render, render_no_code, show_value
from verl.utils.reward_score.feedback.sandbox import Frame, Opaque, Status, TestOutcome
from verl.utils.reward_score.feedback.text import MAX_FEEDBACK_CHARS

PROGRAM = "import sys\n\ndef f(n):\n    return 1 // n\n\nprint(f(0))\n"


def view(style="rich", reveal="gold") -> View:
    return View(PROGRAM, 6.0, reveal=Reveal(reveal), rich=style == "rich")


def failure(verdict, status, *, kind="stdin", index=0, given="0\n", expected="7", **outcome) -> Failure:
    return Failure(index, verdict, kind, given, expected, TestOutcome(status, **outcome))


WRONG = failure(Verdict.WRONG_ANSWER, Status.OK, stdout="5\n", stderr="dbg\n", index=1)
SILENT = failure(Verdict.WRONG_ANSWER, Status.OK)
RETURNED = failure(
    Verdict.WRONG_ANSWER, Status.OK, kind="functional", expected="[[1, true]]", result=[(1, True)], returned=True
)
TYPED = failure(
    Verdict.WRONG_ANSWER,
    Status.OK,
    kind="functional",
    expected="[1]",
    result=Opaque("collections.deque"),
    returned=True,
)
CHECK = failure(
    Verdict.WRONG_ANSWER,
    Status.TEST_FAILED,
    kind="assert",
    given="def check(f):\n    assert f(1) == 2\ncheck(f)",
    exception="AssertionError",
    message="assert f(1) == 2",
    last_call="f(1)",
    result=3,
    returned=True,
)
CRASH = failure(
    Verdict.RUNTIME_ERROR,
    Status.RUNTIME_ERROR,
    exception="ZeroDivisionError",
    message="integer division or modulo by zero",
    frames=(Frame(6, "<module>"), Frame(4, "f")),
)
DEEP = failure(
    Verdict.RUNTIME_ERROR,
    Status.RUNTIME_ERROR,
    exception="RecursionError",
    message="maximum recursion depth exceeded",
    frames=(Frame(6, "<module>"), *[Frame(4, "f")] * 50),
)
SEGFAULT = failure(Verdict.RUNTIME_ERROR, Status.KILLED, signal=11)
EXITED = failure(Verdict.RUNTIME_ERROR, Status.OK, kind="functional", exit_code=0)
BLOCKED = failure(
    Verdict.RUNTIME_ERROR,
    Status.RUNTIME_ERROR,
    exception="PermissionError",
    message="[Errno 13] Permission denied: '/home/me/data/train.parquet'",
    frames=(Frame(1, "<module>"),),
)
SYNTAX = failure(
    Verdict.COMPILE_ERROR,
    Status.COMPILE_ERROR,
    exception="SyntaxError",
    message="invalid syntax",
    frames=(Frame(3, "<module>"),),
)
SLOW = failure(Verdict.TIME_LIMIT, Status.TIME_LIMIT, given="7 " * 400 + "\n8\n")
FAT = failure(Verdict.MEMORY_LIMIT, Status.MEMORY_LIMIT)
LOUD = failure(Verdict.OUTPUT_LIMIT, Status.OUTPUT_LIMIT)

RICH = [
    (WRONG, "Test Case 2: Wrong Answer\n\nInput\n0\n\nOutput\n5\n\nExpected\n7\n\nDebug Output\ndbg"),
    (SILENT, "Test Case 1: Wrong Answer\n\nInput\n0\n\nOutput\n(no output)\n\nExpected\n7"),
    (RETURNED, "Test Case 1: Wrong Answer\n\nInput\n0\n\nOutput\n[(1, True)]\n\nExpected\n[[1, True]]"),
    (
        TYPED,
        "Test Case 1: Wrong Answer\n\nInput\n0\n\n"
        "Output\n(an object of type collections.deque, expected plain data)\n\nExpected\n[1]",
    ),
    (
        CHECK,
        "Test Case 1: Wrong Answer\n\nInput\nf(1)\n\nOutput\n3\n\nFailed Check\nAssertionError: assert f(1) == 2",
    ),
    (
        CRASH,
        "Runtime Error\nZeroDivisionError: integer division or modulo by zero\n"
        "print(f(0))\nLine 6 in <module> (Solution.py)\nreturn 1 // n\nLine 4 in f (Solution.py)\n\n"
        "Last Executed Input\n0",
    ),
    (
        DEEP,
        "Runtime Error\nRecursionError: maximum recursion depth exceeded\n"
        "print(f(0))\nLine 6 in <module> (Solution.py)\nreturn 1 // n\nLine 4 in f (Solution.py), repeatedly\n\n"
        "Last Executed Input\n0",
    ),
    (
        SEGFAULT,
        "Runtime Error\nThe program was killed by signal 11 (stack overflow or native crash).\n\n"
        "Last Executed Input\n0",
    ),
    (
        EXITED,
        "Runtime Error\nThe program exited with status 0 before it finished or returned a value.\n\n"
        "Last Executed Input\n0",
    ),
    (
        BLOCKED,
        "Runtime Error\nPermissionError: [Errno 13] Permission denied: 'train.parquet'\n"
        "import sys\nLine 1 in <module> (Solution.py)\n"
        "The program runs without network, file and process access.\n\nLast Executed Input\n0",
    ),
    (SYNTAX, "Compile Error\nSyntaxError: invalid syntax\ndef f(n):\nLine 3 (Solution.py)"),
    (
        SLOW,
        "Time Limit Exceeded (6 s)\n\nLast Executed Input\n"
        + ("7 " * 63)[:125]
        + " ... (550 characters left out) ... "
        + ("7 " * 63)[-125:]
        + "\n8\n(2 lines, 803 characters)",
    ),
    (FAT, "Memory Limit Exceeded (4096 MiB)\n\nLast Executed Input\n0"),
    (LOUD, "Output Limit Exceeded\n\nLast Executed Input\n0"),
]
REFERENCE = [
    (WRONG, "Test Case 2: Wrong Answer\n\nInput\n0\n\nOutput\n5\n\nExpected\n7\n\nDebug Output\ndbg"),
    (
        CRASH,
        "Runtime Error\nZeroDivisionError: integer division or modulo by zero\n"
        "Line 6 in <module> (Solution.py)\nLine 4 in f (Solution.py)\n\nLast Executed Input\n0",
    ),
    (SYNTAX, "Runtime Error\nSyntaxError: invalid syntax (Solution.py, line 3)"),
    (SLOW, "Time Limit Exceeded\n\nLast Executed Input\n" + "7 " * 125 + "...\n8"),
    (FAT, "Memory Limit Exceeded\n\nLast Executed Input\n0"),
]


@pytest.mark.parametrize(("shown", "text"), RICH)
def test_rich(shown, text):
    assert render([shown], view()) == text


@pytest.mark.parametrize(("shown", "text"), REFERENCE)
def test_reference(shown, text):
    assert render([shown], view("reference")) == text


def test_two_wrong_answers_are_shown_the_shortest_first():
    failures = [failure(Verdict.WRONG_ANSWER, Status.OK, index=i, given="x" * n) for i, n in enumerate([9, 3, 6])]
    text = render(failures, view())
    assert [line for line in text.split("\n") if "Test Case" in line] == [
        "Test Case 2: Wrong Answer",
        "Test Case 3: Wrong Answer",
    ]


def test_nothing_failed_nothing_said():
    assert render([], view()) == ""


def test_limits_of_the_reference_style():
    rows = "\n".join(f"{i}" * 300 for i in range(10))
    text = render([failure(Verdict.TIME_LIMIT, Status.TIME_LIMIT, given=rows)], view("reference"))
    body = text.split("Last Executed Input\n")[1].split("\n")
    # Eight lines of 250 characters are cut again by the limit of the whole text.
    assert body[0] == "0" * 250 + "..." and len(body) == 8 and body[-1] == "..."
    short = "\n".join(map(str, range(10)))
    text = render([failure(Verdict.TIME_LIMIT, Status.TIME_LIMIT, given=short)], view("reference"))
    assert text.endswith("7\n... (2 more lines)")


def test_long_outputs_name_the_first_different_line():
    expected = "\n".join(map(str, range(100)))
    got = expected.replace("57", "fifty-seven").replace("56", "56.0")
    text = render([failure(Verdict.WRONG_ANSWER, Status.OK, stdout=got, expected=expected)], view())
    assert text.endswith("First different line: 58\nfifty-seven\n57")
    text = render([failure(Verdict.WRONG_ANSWER, Status.OK, stdout=expected[:-3], expected=expected)], view())
    assert text.endswith("First different line: 100\n(end of output)\n99")
    got = expected.replace("\n", " \n")  # wrong in mode `paper` only
    text = render([failure(Verdict.WRONG_ANSWER, Status.OK, stdout=got, expected=expected)], view())
    assert "First different line" not in text


@pytest.mark.parametrize(
    ("reveal", "text"),
    [
        ("none", "Wrong Answer"),
        ("form", "Test Case 2: Wrong Answer"),
        ("mismatch", "Test Case 2: Wrong Answer\n\nInput\n0\n\nOutput\n5\n\nDebug Output\ndbg"),
    ],
)
def test_lower_reveal_levels_of_a_wrong_answer(reveal, text):
    assert render([WRONG], view(reveal=reveal)) == text


@pytest.mark.parametrize("reveal", ["none", "form", "mismatch"])
@pytest.mark.parametrize("style", ["rich", "reference"])
@pytest.mark.parametrize("shown", [WRONG, SILENT, RETURNED, TYPED, CHECK, CRASH, SLOW, SYNTAX])
def test_expected_outputs_show_only_at_gold(shown, style, reveal):
    """Neither the expected output nor, for assertion tests, the text of the failed check changes the feedback."""
    outcome = TestOutcome(**{**vars(shown.outcome), "message": "M" if shown is CHECK else shown.outcome.message})
    other = Failure(shown.index, shown.verdict, shown.kind, shown.input, "[424242]", outcome)
    assert render([shown], view(style, reveal)) == render([other], view(style, reveal)) != ""


def test_no_code_and_truncation():
    assert render_no_code(Verdict.NO_CODE, Reveal.GOLD).startswith("Incorrect Format: Put the whole program")
    assert render_no_code(Verdict.TRUNCATED, Reveal.FORM).startswith("Truncated Attempt: The response reached")
    assert render_no_code(Verdict.NO_CODE, Reveal.NONE) == "Incorrect Format"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([1, (2.0, None)], "[1, (2.0, None)]"),
        (Opaque("numpy.ndarray", [1]), "(an object of type numpy.ndarray, expected plain data)"),
    ],
)
def test_show_value(value, text):
    assert show_value(value) == text


def test_show_value_of_what_python_refuses_to_write():
    assert show_value([10**5000]) == "(a list too large to show)"


PIECES = st.lists(
    st.sampled_from([*TOKENS, "Time Limit Exceeded\n", "Error: x", "\x00", "\ud800", "\n"]) | st.text()
).map("".join)


@given(text=PIECES, style=st.sampled_from(["rich", "reference"]), reveal=st.sampled_from(list(Reveal)))
def test_whatever_a_program_writes_the_text_is_clean_bounded_and_the_verdict_stands(text, style, reveal):
    frames = (Frame(4, text),)
    shown = {
        "Wrong Answer": failure(
            Verdict.WRONG_ANSWER, Status.OK, stdout=text, stderr=text, given=text, expected=text + "1"
        ),
        "Runtime Error": failure(
            Verdict.RUNTIME_ERROR, Status.RUNTIME_ERROR, exception=text or "E", message=text, frames=frames, given=text
        ),
    }
    for title, shown_failure in shown.items():
        feedback = render([shown_failure], view(style, reveal.value))
        assert title in feedback.split("\n")[0]
        assert len(feedback) <= MAX_FEEDBACK_CHARS
        assert not [token for token in TOKENS if token in feedback]
        feedback.encode()
