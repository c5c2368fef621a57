import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from experiments.quickstart import train
from experiments.quickstart.environment import ENVIRONMENTS
from experiments.quickstart.report import Run
from experiments.quickstart.supervise import RunFailed


@pytest.fixture
def progress(tmp_path):
    run = Run(tmp_path)
    run.log.write_text("")
    run.settings_file.write_text(json.dumps({"task": "tool-json"}))
    return train.Progress(run, steps=4)


@pytest.mark.parametrize("task", ENVIRONMENTS)
@pytest.mark.parametrize(
    ("algorithm", "loss_mode", "trainer_mode"), [("sdpo", "sdpo", "sdpo"), ("grpo", "vanilla", "sync_stoppable")]
)
def test_verl_accepts_the_recipe(tmp_path, task, algorithm, loss_mode, trainer_mode):
    args = argparse.Namespace(
        model=tmp_path,
        data=Path("a folder (2), it's=é#"),
        task=task,
        algorithm=algorithm,
        steps=7,
        seed=5,
        overrides=["data.train_batch_size=2"],
    )
    command = [*train.command(args, tmp_path / "run", "/tmp/r"), "--cfg", "job", "--resolve"]
    env = train.environment(tmp_path / "metrics.jsonl")
    shown = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert shown.returncode == 0, shown.stderr
    config = OmegaConf.create(shown.stdout[shown.stdout.index("actor_rollout_ref:") :])
    assert config.actor_rollout_ref.actor.policy_loss.loss_mode == loss_mode
    assert config.trainer.v1.trainer_mode == trainer_mode
    # Hydra has a grammar of its own, in which a path may mean something else.
    assert config.data.train_files == f"a folder (2), it's=é#/{task}/train.parquet"
    assert (config.trainer.total_training_steps, config.data.train_batch_size, config.data.seed) == (7, 2, 5)
    assert (config.data.max_response_length, config.actor_rollout_ref.rollout.temperature) == (40, 0.6)


@pytest.mark.parametrize(
    ("capabilities", "overrides"),
    [({"avx512_bf16": True}, 2), ({"amx_bf16": True}, 2), ({"bf16": True}, 2), ({"avx512_bf16": False}, 0)],
)
def test_bfloat16_only_where_the_cpu_has_instructions_for_it(monkeypatch, capabilities, overrides):
    monkeypatch.setattr(train.torch.cpu, "get_capabilities", lambda: capabilities)
    assert len(train.precision()) == overrides


def test_each_new_record_is_one_line(progress, capsys):
    progress.run.metrics_file.write_text('{"step": 0, "data": {"val-core/tool_json/acc/mean@1": 0.25}}\n')
    progress.watch()
    progress.watch()
    with progress.run.metrics_file.open("a") as file:
        file.write('{"step": 1, "data": {"critic/score/mean": 0.5, "timing_s/step": 40.0}}\n')
    progress.watch()
    assert capsys.readouterr().out.splitlines() == [
        "step   0/4  held-out accuracy 0.25",
        "step   1/4  training accuracy 0.50  40 s/step, about 2 min left",
    ]


def test_a_failed_run_that_does_not_exit_is_noticed(progress, monkeypatch):
    progress.watch()
    # Written in two parts, as a reader may see it.
    for part in ("Error executing job", " with overrides: []\n"):
        with progress.run.log.open("a") as log:
            log.write(part)
        progress.watch()
    now = train.time.time()
    monkeypatch.setattr(train.time, "time", lambda: now + train.EXIT_SECONDS + 1)
    with pytest.raises(RunFailed, match="did not exit"):
        progress.watch()


def test_a_silent_run_is_noticed(progress, monkeypatch):
    now = train.time.time()
    monkeypatch.setattr(train.time, "time", lambda: now + train.STALL_SECONDS + 1)
    with pytest.raises(RunFailed, match="no output for"):
        progress.watch()


def test_flags_of_others_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py", "--model=m", "--data=d", "--runs=r", "--stepz", "3"])
    with pytest.raises(SystemExit):
        train.parse_arguments()
    assert "--stepz" in capsys.readouterr().err


def test_every_task_has_a_number_of_steps(monkeypatch):
    assert train.STEPS.keys() == ENVIRONMENTS.keys()
    for words, steps in ((["--task", "renamed-key"], 24), (["--steps", "3"], 3), ([], 15)):
        monkeypatch.setattr(sys, "argv", ["train.py", "--model=m", "--data=d", "--runs=r", *words])
        assert train.parse_arguments().steps == steps
