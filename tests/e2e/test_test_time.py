"""Test-time search with real vLLM, and with real Ray and verl: interrupted, resumed, solved."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e import tiny
from verl.sdpo.test_time.log import read_log

pytestmark = pytest.mark.e2e

REPOSITORY = Path(__file__).parents[2]
GRADER = """
def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    return {{"score": {score}, "acc": {score}, "feedback": "{feedback}"}}
"""


def write_grader(path, *, right):
    path.write_text(GRADER.format(score=float(right), feedback="" if right else "That is wrong."))


@pytest.fixture
def question(tmp_path):
    """One question; train.parquet holds copies of it, as data/split_tests.py writes them."""
    row = {"prompt": [{"role": "user", "content": "Say 7."}], "extra_info": {"index": "7"}}
    folder = tiny.build_data(tmp_path / "q_7", train=4, test=1, **row)
    write_grader(tmp_path / "grader.py", right=False)
    return folder


def responses(path):
    return [record["response"] for record in read_log(path)[1]]


def test_multi_turn_with_vllm_repeats_itself_after_a_kill(tiny_model, question, tmp_path):
    log = tmp_path / "run.attempts.jsonl"
    command = [
        *(sys.executable, REPOSITORY / "baseline_multiturn" / "multiturn.py", "--data-dir", question),
        *("--output-dir", tmp_path, "--run-name", "run", "--model", tiny_model, "--reward", tmp_path / "grader.py"),
        *("--max-context", "150", "--max-response", "8", "--budget", "5", "--dtype", "float32"),
        *("--template", "attempt_and_feedback"),
    ]
    environment = {**os.environ, "VERL_PLATFORM": "cpu", "HF_HUB_OFFLINE": "1"}

    def run():
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        return done.stdout

    output = run()
    whole = responses(log)
    assert len(set(whole)) == 5
    assert "not solved within the budget of 5 attempts" in output
    assert "the context of 150 tokens is full: dropped the oldest 1 of" in output
    _, records = read_log(log)
    assert all(0 < record["response_tokens"] <= 8 for record in records)
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:4]) + lines[4][:20])
    run()
    assert responses(log) == whole


def test_sdpo_on_one_question_stops_at_its_budget_or_solution(train, tiny_data, question, tmp_path):
    """Never right: 20 attempts in 3 steps of 8, the last 4 not counted. Then, as if killed while step 2 was logged, and
    with a grader that is always right: attempt 9 is made again, confirmed, and there is no step 3."""
    folder = tmp_path / "run"
    log = folder / "q_7.attempts.jsonl"
    overrides = [
        "reward.custom_reward_function.path=pkg://verl.sdpo.test_time.grading",
        f"reward.custom_reward_function.reward_kwargs.grader={tmp_path / 'grader.py'}",
        "test_time.budget=20",
        f"test_time.log={log}",
        "trainer.save_freq=1",
        "actor_rollout_ref.rollout.n=8",
    ]
    first = train(folder, *overrides, config="sdpo_ttt", data=question, prompts=1)
    assert first.returncode == 0, first.stdout[-5000:]
    _, records = read_log(log)
    assert [record["attempt"] for record in records] == list(range(1, 21))
    assert [record["step"] for record in records] == [1] * 8 + [2] * 8 + [3] * 4
    assert len({record["response"] for record in records}) == 20
    assert "not solved within the budget of 20 attempts" in first.stdout
    assert records[0]["metrics"]["feedback"] == "That is wrong."
    steps = tiny.read_metrics(folder / "metrics.jsonl")
    assert steps[0]["data"]["self_distillation/feedback_used_fraction"] == 1.0
    assert steps[0]["data"]["actor/grad_norm"] > 0

    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:10]) + lines[10][:20])
    for step in (2, 3):
        shutil.rmtree(folder / "checkpoints" / f"global_step_{step}")
    (folder / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("1")
    write_grader(tmp_path / "grader.py", right=True)
    second = train(folder, *overrides, config="sdpo_ttt", data=question, prompts=1)
    assert second.returncode == 0, second.stdout[-5000:]
    _, resumed = read_log(log)
    assert [record["response"] for record in resumed] == [record["response"] for record in records[:9]]
    assert [record["confirmed"] for record in resumed] == [False] * 8 + [True]
    assert "moved 1 attempts after step 1 out of" in second.stdout
    assert "q_7: SOLVED by attempt 9, confirmed on the hidden tests" in second.stdout
    assert [record["step"] for record in tiny.read_metrics(folder / "metrics.jsonl")] == [2]
    set_aside = log.with_name(f"{log.name}.set-aside").read_bytes().splitlines()
    assert [json.loads(line)["attempt"] for line in set_aside[1:]] == [9]
