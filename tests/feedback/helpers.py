"""Shared by the graders' tests."""

import json
import os
from pathlib import Path

import pytest

from verl.utils.reward_score.feedback.contract import Options, Reveal, Task

REPO = Path(__file__).resolve().parents[2]
DATA = Path(__file__).with_name("data")


def shared_data(path: str) -> list[dict]:
    """The published records of one file, which this repository does not carry; skips the test where they are not."""
    file = Path(os.environ.get("SDPO_SHARED_DATA", REPO.parent / "shared" / "data")) / path
    if not file.is_file():
        pytest.skip(
            f"needs the published records {path}: clone https://github.com/lasgroup/SDPO and set SDPO_SHARED_DATA to "
            "its folder datasets (test_head.jsonl: the first 34 lines of test.json)"
        )
    return [json.loads(line) for line in file.read_text().splitlines()]


def task(response: str, ground_truth, *, reveal="form", problem="", truncated=False, **options) -> Task:
    return Task(
        response=response,
        ground_truth=ground_truth,
        problem=problem,
        truncated=truncated,
        reveal=Reveal(reveal),
        options=Options.from_kwargs(options),
    )
