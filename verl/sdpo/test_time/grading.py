"""Grading on public tests, and confirmation on hidden ones, the same for every method.

`compute_score` is the reward function of test-time SDPO; see `trainer/config/sdpo_ttt.yaml`.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow.parquet as pq

from verl.sdpo.context import Grading

# A success at test time passes every test.
GRADING = Grading(success_reward_threshold=1.0)

RewardFunction = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Question:
    """One question with its public tests (those of train.parquet) and its hidden tests (those of test.parquet)."""

    id: str
    messages: list[dict[str, str]]
    data_source: str
    public: Any
    hidden: Any
    extra_info: Mapping[str, Any]

    def header(self) -> dict[str, Any]:
        """Return the question's part of a log's header."""
        tests = json.dumps([self.data_source, self.public, self.hidden])
        digest = hashlib.sha256(tests.encode()).hexdigest()[:16]
        return {"question_id": self.id, "prompt": self.messages, "tests": digest}


def read_question(public_file: Path, hidden_file: Path) -> Question:
    """Read train.parquet and test.parquet of one question's folder, such as `lcb_v6_singles/q_120`, which names it.

    Raises:
        ValueError: a file is missing, does not ask exactly one question, or the two files ask different questions.
    """
    train, test = only_question(public_file), only_question(hidden_file)
    if train["prompt"] != test["prompt"]:
        raise ValueError(f"{public_file} and {hidden_file} ask different questions. Make the folder again.")
    return Question(
        id=public_file.resolve().parent.name,
        messages=train["prompt"],
        data_source=train["data_source"],
        public=train["reward_model"]["ground_truth"],
        hidden=test["reward_model"]["ground_truth"],
        extra_info=train.get("extra_info") or {},
    )


def only_question(file: Path) -> dict[str, Any]:
    """The row of a file that asks one question; `data/split_tests.py` writes a batch of copies into train.

    Raises:
        ValueError: the file is missing, or does not ask exactly one question.
    """
    how = "Name the folder of one question, made by data/prepare_data_splits.sh (MY_DATA_SINGLES_DIR)."
    if not file.is_file():
        raise ValueError(f"{file} does not exist. {how}")
    rows = pq.read_table(file).to_pylist()
    different = [row for i, row in enumerate(rows) if row not in rows[:i]]
    if len(different) != 1:
        raise ValueError(f"{file} has {len(different)} different rows, expected 1. {how}")
    return different[0]


def grade(
    reward_function: RewardFunction,
    response: str,
    *,
    data_source: str,
    public: Any,
    hidden: Any,
    extra_info: Mapping[str, Any],
) -> dict[str, Any]:
    """Grade a response on the public tests, and on the hidden ones if it passes those.

    Returns:
        The public result, from which alone reward and feedback come, and `hidden` (None when not tried; the hidden
        result without its texts, so that none reaches a model) and `confirmed` (passed both).
    """
    result = reward_function(data_source, response, public, dict(extra_info))
    confirmation = None
    if GRADING.is_success(result["score"]):
        verdict = reward_function(data_source, response, hidden, dict(extra_info))
        confirmation = {key: value for key, value in verdict.items() if key not in ("feedback", "pred")}
    confirmed = confirmation is not None and GRADING.is_success(confirmation["score"])
    return {**result, "hidden": confirmation, "confirmed": confirmed}


def load_reward_function(path: str, options: Mapping[str, Any]) -> RewardFunction:
    """Return `compute_score` of a module (`pkg://...`) or a file, with its options bound."""
    return functools.partial(_load(path), **options)


@functools.cache
def _load(path: str) -> RewardFunction:
    from verl.utils.import_utils import load_extern_object

    return cast(RewardFunction, load_extern_object(path, "compute_score"))


def grade_question(reward_function: RewardFunction, question: Question, response: str, truncated: bool):
    """Grade a response to a question.

    Args:
        truncated: True if the response was cut by its length limit.
    """
    return grade(
        reward_function,
        response,
        data_source=question.data_source,
        public=question.public,
        hidden=question.hidden,
        extra_info={**question.extra_info, "truncated": truncated},
    )


@functools.cache
def _hidden_tests(file: str) -> Any:
    return only_question(Path(file))["reward_model"]["ground_truth"]


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: dict | None = None,
    *,
    hidden_file: str,
    grader: str,
    options: Mapping[str, Any],
    **verl_kwargs: Any,
) -> dict[str, Any]:
    """Reward function of test-time SDPO: `grade` with the hidden tests of the one row in `hidden_file`."""
    return grade(
        load_reward_function(grader, options),
        solution_str,
        data_source=data_source,
        public=ground_truth,
        hidden=_hidden_tests(hidden_file),
        extra_info=extra_info or {},
    )
