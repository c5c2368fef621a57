"""A training of the tiny model, started as often as asked, as `launcher.sh --local` does it: job.sh, then train.sh."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.chaos.plan import STEPS
from tests.e2e.conftest import tiny_overrides
from verl.sdpo.runs.checkpoints import TRACKER
from verl.sdpo.runs.reader import Run

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
POLL_S = 0.02
# A start takes a minute on two idle cores.
START_S = 600
# Longer than the sandbox waits for a fork server that stands still.
GRADER_TIMEOUT_S = 30


class Hung(Exception):
    """What was waited for did not come."""


class Training:
    """A folder with everything of one run; `start` may be called again and again."""

    def __init__(self, folder: Path, model: Path, data: Path):
        self.folder, self.checkpoints = folder, folder / "checkpoints"
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        self.data = data
        self.process: subprocess.Popen | None = None
        self.overrides = [
            *tiny_overrides(folder, model, data),
            f"trainer.total_training_steps={STEPS}",
            "trainer.save_freq=1",
            "trainer.max_actor_ckpt_to_keep=2",
            f"trainer.rollout_data_dir={folder / 'rollouts'}",
            "actor_rollout_ref.actor.optim.lr=1e-3",
            f"reward.grader_timeout={GRADER_TIMEOUT_S}",
            # Both lie in /dev/shm, which one of the faults makes small.
            "+ray_kwargs.ray_init.object_store_memory=100000000",
            "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes=8",
        ]
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "RAY_", "SITE_"))},
            **{"PYTHON": sys.executable, "VERL_PLATFORM": "cpu", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            # On a busy machine Ray's node takes longer than the 30 s that it is given by default, and its workers,
            # whose priority it lowers, starve.
            **{"RAY_raylet_start_wait_time_s": "600", "RAY_worker_niceness": "0"},
            "SDPO_SKIP_DOCTOR": "yes",
            **{"RUN_DIR": str(folder), "RUN_STOP_DIR": str(self.checkpoints), "RUN_STOP_SECONDS": "60"},
            **{"SDPO_DIR": str(data.parent), "TASK": data.name, "EXPERIMENT": folder.name},
        }

    def start(self) -> None:
        # The names of its files hold the second.
        time.sleep(1.1)
        self._attempts = len(self.outputs)
        with (self.folder / "job.txt").open("a") as said:
            self._said_before = said.tell()
            self.process = subprocess.Popen(
                ["bash", EXPERIMENTS / "job.sh", "bash", EXPERIMENTS / "train.sh", "sdpo", *self.overrides],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )

    def interrupt(self) -> None:
        """As Ctrl-C in the launcher does."""
        assert self.process
        self.process.send_signal(signal.SIGTERM)

    def wait_until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """False when the run ended before.

        Raises:
            Hung: neither came.
        """
        assert self.process
        deadline = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None:
                return False
            if time.monotonic() > deadline:
                raise Hung(f"not within {seconds:.0f} s")
            time.sleep(POLL_S)
        return True

    def wait_for_step(self, step: int, seconds: float) -> bool:
        """Until so much of that step is over, but not longer than it takes. False when the run ended before."""
        if not self.wait_until(lambda: self.is_training and self.logged >= step - 1, START_S):
            return False
        moment = time.monotonic() + seconds
        return self.wait_until(lambda: time.monotonic() >= moment or self.logged >= step, START_S)

    def ended(self, seconds: float) -> int:
        """Its exit status.

        Raises:
            Hung: it has not ended.
        """
        assert self.process
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Hung(f"it did not end within {seconds:.0f} s") from None

    @property
    def outputs(self) -> list[Path]:
        return sorted(self.folder.glob("output-*.log"))

    @property
    def output(self) -> str:
        """Of this attempt."""
        return self.outputs[-1].read_text(errors="replace") if len(self.outputs) > self._attempts else ""

    @property
    def said(self) -> str:
        """What job.sh told whoever started this attempt."""
        with (self.folder / "job.txt").open() as file:
            file.seek(self._said_before)
            return file.read()

    @property
    def is_training(self) -> bool:
        return "Training Progress" in self.output

    @property
    def metrics_files(self) -> list[Path]:
        return sorted(self.folder.glob("metrics-*.jsonl"))

    @property
    def logged(self) -> int:
        """The last step that any attempt logged."""
        return max((step for steps in self.attempts for step in steps), default=0)

    @property
    def attempts(self) -> list[list[int]]:
        """The steps that each attempt logged. A line that a crash cut off is no line."""
        return [
            [json.loads(line)["step"] for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
            for file in self.metrics_files
        ]

    @property
    def saved(self) -> int:
        """The step from which it would go on."""
        tracker = self.checkpoints / TRACKER
        return int(tracker.read_text() or 0) if tracker.is_file() else 0

    @property
    def metrics(self) -> dict[int, dict[str, float]]:
        """Step to numbers, as the reports read them."""
        return Run(self.folder).metrics

    @property
    def rollouts(self) -> dict[int, int]:
        """Step to the number of attempts that it dumped."""
        files = (self.folder / "rollouts").glob("*.jsonl")
        return {int(file.stem): len(file.read_text().splitlines()) for file in files}
