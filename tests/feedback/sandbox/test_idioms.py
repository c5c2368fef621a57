"""Idioms of contest solutions are accepted by the grader that trains."""

import json

import pytest

from tests.feedback.sandbox import idioms
from verl.utils.reward_score.feedback import compute_score


def _grade(program: str, text: str, expected: str) -> dict:
    tests = {"inputs": [text], "outputs": [expected], "testtype": "stdin", "fn_name": "", "time_limit": 5}
    return compute_score("livecodebench", f"```python\n{program}\n```", json.dumps(tests))


@pytest.mark.parametrize("program", idioms.IDIOMS.values(), ids=idioms.IDIOMS)
def test_idiom(program: str) -> None:
    result = _grade(program, idioms.INPUT, idioms.ANSWER)
    assert result["verdict"] == "accepted", result["feedback"]


@pytest.mark.parametrize("program", idioms.LARGE_OUTPUT.values(), ids=idioms.LARGE_OUTPUT)
def test_large_output(program: str) -> None:
    result = _grade(program, "", "\n".join(map(str, range(10**5))))
    assert result["verdict"] == "accepted", result["feedback"]


def test_the_programs_own_file_cannot_be_opened() -> None:
    """`__file__` names a file that is nowhere: a run writes no file, and leaves no descriptor open for it."""
    result = _grade("print(open(__file__).read())", "", "1")
    assert result["verdict"] == "runtime_error" and "FileNotFoundError" in result["feedback"]
