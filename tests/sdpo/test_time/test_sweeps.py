"""The sweeps, without running anything: their questions, names and command lines."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from baseline_multiturn.command import argument_parser
from experiments.effective_config import compose_runs
from experiments.quickstart.environment import compute_score
from experiments.ttt import cpu_tasks
from tests.sdpo.trainings import check_training
from verl.sdpo.test_time.grading import read_question
from verl.sdpo.test_time.published import QUESTIONS

SWEEPS = Path(__file__).parents[3] / "experiments" / "ttt"
# The same in the authors' repository: https://github.com/lasgroup/SDPO, experiments/ttt/run_multiturn_all.sh
PUBLISHED = [str(number) for number in QUESTIONS["hard"]]


def sweep(script: str, *arguments: str, folder: Path, **environment: str) -> str:
    run = subprocess.run(
        ["bash", SWEEPS / script, *arguments],
        env={"PATH": os.environ["PATH"], "PYTHON": sys.executable, "SDPO_DIR": str(folder), **environment},
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
        "sdpo_q1_seed0\tsdpo_ttt\tlcb_v6_singles/q_1\tactor_rollout_ref.model.path=Qwen/Qwen3-8B\tvars.seed=0"
        "\tvars.task=lcb_v6_singles/q_1\ta.b=1"
    )
    assert lines[0] == first
    assert [line.split("\t")[0] for line in lines] == [f"sdpo_q{q}_seed{seed}" for seed in (0, 1) for q in PUBLISHED]


def test_five_seeds_unless_the_environment_says_otherwise(tmp_path):
    lines = sweep("run_sdpo_all.sh", "--list", folder=tmp_path, QUESTIONS="5").splitlines()
    assert [line.split("\t")[0] for line in lines] == [f"sdpo_q5_seed{seed}" for seed in range(5)]


def test_the_attempts_of_a_training_are_logged_in_its_run_folder(tmp_path):
    (tmp_path / "singles" / "q_5").mkdir(parents=True)
    output = sweep(
        "run_sdpo_all.sh", "--local", "--dry-run", folder=tmp_path, QUESTIONS="5", SEEDS="0", SINGLES="singles"
    )
    assert f"export RUN_DIR={tmp_path}/outputs/ttt/sdpo_q5_seed0" in output
    assert "TASK=singles/q_5" in output


def test_the_sweeps_of_the_cpu_are_small(tmp_path):
    output = sweep(
        "../launcher.sh",
        *("ttt_cpu_best_of_k", "ttt_cpu_multiturn", "ttt_cpu_sdpo", "--local", "--dry-run"),
        folder=tmp_path,
        QUESTIONS="4",
        BUDGET="9",
        MODEL="/models/tiny",
    )
    best_of_k, multi_turn, sdpo = output.replace("\\\n", "").split("# ----- ")[1:]
    for run, program in ((best_of_k, "best_of_k.py"), (multi_turn, "multiturn.py")):
        command = shlex.split(run.splitlines()[-1])
        args = argument_parser(None)
        args.add_argument("--batch")
        parsed = args.parse_args(command[command.index(f"baseline_multiturn/{program}") + 1 :])
        assert (parsed.budget, parsed.max_response, parsed.model) == (9, 48, "/models/tiny")
        assert Path(parsed.reward).is_file()
    assert {"test_time.budget=9", "actor_rollout_ref.model.path=/models/tiny"} <= set(
        shlex.split(sdpo.splitlines()[-1])
    )


def test_the_renamed_key_trains_with_the_recipe_of_the_quickstart(tmp_path):
    lines = sweep("../launcher.sh", "ttt_cpu_renamed_key_sdpo", "--list", folder=tmp_path, QUESTIONS="4").splitlines()
    (config,) = compose_runs(lines).values()
    check_training(config)
    block = config.actor_rollout_ref.actor.self_distillation
    with initialize_config_dir(str(SWEEPS.parent / "quickstart" / "config"), version_base=None):
        recipe = compose("renamed-key_sdpo", ["hydra.searchpath=[pkg://verl.trainer.config]"])
    expected = recipe.actor_rollout_ref.actor.self_distillation
    for key in ("alpha", "distillation_topk", "reprompt_template", "solution_template", "feedback_template"):
        # An override is one line.
        value = expected[key].replace("\n\n", " ") if isinstance(expected[key], str) else expected[key]
        assert block[key] == value, key


def test_the_questions_of_the_cpu_have_one_answer_each(tmp_path):
    for environment, key in (("tool-json", "tool"), ("renamed-key", "action")):
        cpu_tasks.write_questions(tmp_path, environment)
        question = read_question(tmp_path / "q_3" / "train.parquet", tmp_path / "q_3" / "test.parquet")
        assert '"tool", "artist", "room" and "time"' in question.messages[0]["content"]
        call = {key: "music", "artist": "Bowie", "room": "kitchen", "time": "9:30"}
        assert json.loads(question.public) == json.loads(question.hidden) == call
        assert compute_score(question.data_source, json.dumps(call), question.public)["score"] == 1.0


def test_a_missing_question_is_said_in_one_sentence(tmp_path):
    environment = {"PYTHON": sys.executable, "SDPO_DIR": str(tmp_path), "QUESTIONS": "5", "SEEDS": "0"}
    run = subprocess.run(
        ["bash", SWEEPS / "run_multiturn_all.sh", "--local"],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 1
    missing, summary = run.stderr.splitlines()
    assert missing.startswith(f"multi_turn_q5_seed0: there is no {tmp_path}/lcb_v6_singles/q_5/train.parquet.")
    assert summary == "# 0 ran, 0 skipped, 1 failed multi_turn_q5_seed0"
