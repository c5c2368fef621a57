"""Small inputs made after public bug reports of graders, with the right score for each."""

import json

import pytest

from tests.feedback.helpers import DATA
from verl.utils.reward_score.feedback import compute_score

FILES = ("reported_cases.jsonl", "reported_cases_b.jsonl")
CASES = [json.loads(line) for file in FILES for line in (DATA / file).read_text(encoding="utf-8").split("\n") if line]


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_reported_case(case):
    given = dict(case["input"])
    options = given.pop("options")
    result = compute_score(**given, **options)
    assert result["score"] == case["expected"], f"{case['kind']}: {case['note']}: {result}"
    assert result["grader_error"] == 0
