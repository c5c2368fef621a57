"""Shared by the graders' tests."""

import json
import os
from pathlib import Path

import pytest

from verl.utils.reward_score.feedback.contract import Options, Reveal, Task

REPO = Path(__file__).resolve().parents[2]
DATA = Path(__file__).with_name("data")


def shared_data(path: str) -> list[dict]:
    """Records of one file of the shared data; skips the test where the data is not there."""
    file = Path(os.environ.get("SDPO_SHARED_DATA", REPO.parent / "shared" / "data")) / path
    if not file.is_file():
        pytest.skip(f"{path} not found; point SDPO_SHARED_DATA at the shared data folder")
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
