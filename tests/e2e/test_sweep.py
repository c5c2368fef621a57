"""A sweep of the paper on this machine: its own script, shrunken by overrides to the CPU and a tiny model."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e import tiny
from tests.e2e.conftest import TIMEOUT_S

pytestmark = pytest.mark.e2e

SCRIPTS = Path(__file__).parents[2] / "experiments" / "rich_feedback"


class Sweep:
    """One of the scripts, with `--local`, as often as the test starts it."""

    def __init__(self, script: str, folder: Path, model: Path, data: Path):
        self.command = [
            *("bash", str(SCRIPTS / script), "--local"),
            f"reward.custom_reward_function.path={data / 'reward.py'}",
            "data.max_prompt_length=64",
            "data.max_response_length=16",
            "max_model_len=512",
            "actor_rollout_ref.rollout.n=4",
            "data.train_batch_size=4",
            "actor_rollout_ref.actor.ppo_mini_batch_size=4",
            "trainer.val_before_train=False",
            "trainer.test_freq=-1",
            "trainer.save_freq=1",
        ]
        self.folder = folder
        self.processes: list[subprocess.Popen] = []
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "SITE_"))},
            "VERL_PLATFORM": "cpu",
            "HF_HUB_OFFLINE": "1",
            # On a busy machine Ray's node takes longer than the 30 s that it is given by default.
            "RAY_raylet_start_wait_time_s": "180",
            "PYTHON": sys.executable,
            "MODELS": str(model),
            "SDPO_DIR": str(data.parent),
            "DATASETS": data.name,
            "SEEDS": "0 1",
            "SDPO_LOG_DIR": str(folder / "logs"),
            "SDPO_CKPT_DIR": str(folder / "checkpoints"),
        }

    def start(self, *, steps: int) -> subprocess.Popen:
        command = [*self.command, f"trainer.total_training_steps={steps}"]
        self.processes.append(subprocess.Popen(command, env=self.environment, stderr=subprocess.PIPE, text=True))
        return self.processes[-1]

    def saved_step(self, seed: int = 0) -> int:
        """The last step of a run of which there is a checkpoint, 0 if none."""
        found = list(self.folder.glob(f"checkpoints/*seed{seed}/latest_checkpointed_iteration.txt"))
        return int(found[0].read_text() or 0) if found else 0

    def steps(self, seed: int) -> list[list[int]]:
        """The training steps of every attempt at a run."""
        files = sorted(self.folder.glob(f"logs/*seed{seed}/metrics-*.jsonl"))
        return [[record["step"] for record in tiny.read_metrics(file)] for file in files]

    def complete(self) -> int:
        return len(list(self.folder.glob("logs/*/complete")))


def wait_for(condition, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


def ended(process: subprocess.Popen) -> tuple[int, str]:
    _, stderr = process.communicate(timeout=TIMEOUT_S)
    return process.returncode, stderr


@pytest.fixture
def sweep(tmp_path, tiny_model, tiny_data):
    sweeps = []

    def make(script: str) -> Sweep:
        sweeps.append(Sweep(script, tmp_path / "with a space", tiny_model, tiny_data))
        return sweeps[-1]

    yield make
    for process in [process for sweep in sweeps for process in sweep.processes if process.poll() is None]:
        # The launcher ends everything that it started.
        process.terminate()
        process.communicate(timeout=TIMEOUT_S)


def test_killed_sweep_continues_from_its_checkpoint(sweep):
    sdpo = sweep("run_sdpo.sh")
    process = sdpo.start(steps=10_000)
    wait_for(sdpo.saved_step, process)
    process.send_signal(signal.SIGTERM)
    status, stderr = ended(process)
    assert (status, "interrupted; start it again to continue" in stderr) == (143, True), stderr
    assert sdpo.complete() == 0

    assert sdpo.steps(seed=1) == []

    # That one run follows another is tested with a program in verl's place (tests/experiments/test_job.py).
    sdpo.environment["SEEDS"] = "0"
    saved = sdpo.saved_step()
    status, stderr = ended(sdpo.start(steps=saved + 1))
    assert (status, sdpo.complete()) == (0, 1), stderr
    assert sdpo.steps(seed=0)[1] == [saved + 1]
    assert sdpo.saved_step() == saved + 1

    status, stderr = ended(sdpo.start(steps=saved + 1))
    assert (status, stderr.endswith("# 0 ran, 1 skipped, 0 failed\n")) == (0, True)
    assert len(sdpo.steps(seed=0)) == 2
