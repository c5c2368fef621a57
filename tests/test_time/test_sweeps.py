"""The sweeps, without running anything: their questions, names and command lines."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from baseline_multiturn.command import argument_parser
from verl.sdpo.test_time.published import QUESTIONS

SWEEPS = Path(__file__).parents[2] / "experiments" / "ttt"
# The same in the authors' repository: https://github.com/lasgroup/SDPO, experiments/ttt/run_multiturn_all.sh
PUBLISHED = [str(number) for number in QUESTIONS["hard"]]


def sweep(script: str, *arguments: str, folder: Path, **environment: str) -> str:
    run = subprocess.run(
        ["bash", SWEEPS / script, *arguments],
        env={"PATH": os.environ["PATH"], "SDPO_DIR": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize(
    ("script", "method", "program"),
    [
        ("run_multiturn_all.sh", "multi_turn", "multiturn.py"),
        ("run_best_of_k_all.sh", "best_of_k", "best_of_k.py"),
    ],
)
def test_every_published_question_is_prompted_once_per_seed(tmp_path, script, method, program):
    output = sweep(script, "--local", "--dry-run", "--", "--budget", "9", folder=tmp_path, SEEDS="0 1")
    runs = output.replace("\\\n", "").split("# ----- ")[1:]
    assert [run.split()[0] for run in runs] == [f"{method}_q{q}_seed{seed}" for seed in (0, 1) for q in PUBLISHED]
    command = shlex.split(runs[0].splitlines()[-1])
    assert f"export RUN_DIR={tmp_path}/outputs/ttt/{method}_q1_seed0" in runs[0]
    args = argument_parser(None).parse_args(command[command.index(f"baseline_multiturn/{program}") + 1 :])
    assert args.data_dir == tmp_path / "lcb_v6_singles" / "q_1"
    assert (args.run_name, args.model, args.seed, args.budget) == (f"{method}_q1_seed0", "Qwen/Qwen3-8B", 0, 9)


def test_every_published_question_is_trained_on_once_per_seed(tmp_path):
    lines = sweep("run_sdpo_all.sh", "--list", "a.b=1", folder=tmp_path, SEEDS="0 1").splitlines()
    first = (
        "sdpo_q1_seed0\tsdpo_ttt\tlcb_v6_singles/q_1\tvars.seed=0\tactor_rollout_ref.model.path=Qwen/Qwen3-8B\ta.b=1"
    )
    assert lines[0] == first
    assert [line.split("\t")[0] for line in lines] == [f"sdpo_q{q}_seed{seed}" for seed in (0, 1) for q in PUBLISHED]


def test_the_attempts_of_a_training_are_logged_in_its_run_folder(tmp_path):
    (tmp_path / "singles" / "q_5").mkdir(parents=True)
    output = sweep("run_sdpo_all.sh", "--local", "--dry-run", folder=tmp_path, QUESTIONS="5", SINGLES="singles")
    assert f"export RUN_DIR={tmp_path}/outputs/ttt/sdpo_q5_seed0" in output
    assert "TASK=singles/q_5" in output


def failure(folder: Path, **environment: str) -> str:
    run = subprocess.run(
        ["bash", SWEEPS / "run_multiturn_all.sh", "--local"],
        env={"PATH": os.environ["PATH"], "SDPO_DIR": str(folder), "QUESTIONS": "5", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 1
    return run.stderr


def test_a_python_without_verl_is_said_before_the_first_run(tmp_path):
    assert failure(tmp_path, PYTHON="/bin/false") == (
        "There is no verl in the Python '/bin/false': set PYTHON, or SITE_PYTHON in the site file.\n"
    )


def test_a_missing_question_is_said_in_one_sentence(tmp_path):
    missing, summary = failure(tmp_path, PYTHON=sys.executable).splitlines()
    assert missing.startswith(f"multi_turn_q5_seed0: there is no {tmp_path}/lcb_v6_singles/q_5/train.parquet.")
    assert summary == "# 0 ran, 0 skipped, 1 failed multi_turn_q5_seed0"
