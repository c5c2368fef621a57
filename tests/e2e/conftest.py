"""Starts whole training runs: stock `verl.trainer.main_ppo`, real Ray, real vLLM, on the CPU."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e import tiny

TIMEOUT_S = 400


@pytest.fixture(scope="package", autouse=True)
def one_thread_each():
    """A run is a dozen processes; with a thread per core each, they keep the cores busy waiting for one another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    return tiny.build_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    return tiny.build_data(tmp_path_factory.mktemp("data") / "task")


@pytest.fixture(scope="session")
def train(tiny_model, tiny_data):
    """`train(folder, *overrides, config=..., prompts=...)` runs `main_ppo` to its end and returns the finished process.

    The run has a session of its own, which is ended with all its children if it hangs.
    """

    def run(
        folder: Path, *overrides: str, config: str = "sdpo", data: Path = tiny_data, prompts: int = 4
    ) -> subprocess.CompletedProcess:
        folder.mkdir(parents=True, exist_ok=True)
        command = [
            *(sys.executable, "-m", "verl.trainer.main_ppo", "--config-name", config),
            *tiny_overrides(folder, tiny_model, tiny_data, prompts),
            *overrides,
        ]
        environment = {
            **os.environ,
            "VERL_PLATFORM": "cpu",
            "HF_HUB_OFFLINE": "1",
            # On a busy machine Ray's node takes longer than the 30 s that it is given by default.
            "RAY_raylet_start_wait_time_s": "180",
            "SDPO_DIR": str(data.parent),
            "TASK": data.name,
            "VERL_FILE_LOGGER_PATH": str(folder / "metrics.jsonl"),
        }
        with (folder / "log.txt").open("w") as log:
            process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                returncode = process.wait(TIMEOUT_S)
            finally:
                # Also after a success: whatever is left of the session must not outlive the test.
                kill_group(process.pid)
        return subprocess.CompletedProcess(command, returncode, (folder / "log.txt").read_text())

    return run


def tiny_overrides(folder: Path, model: Path, data: Path, prompts: int = 4) -> list[str]:
    """The smallest training: what a run in `folder` changes of the configuration."""
    return [
        f"actor_rollout_ref.model.path={model}",
        f"reward.custom_reward_function.path={data / 'reward.py'}",
        f"data.train_batch_size={prompts}",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={prompts}",
        "data.max_prompt_length=64",
        "data.max_response_length=16",
        "max_model_len=512",
        "actor_rollout_ref.rollout.n=4",
        # Equal inputs must give equal samples, whatever vLLM happens to batch together.
        "actor_rollout_ref.rollout.dtype=float32",
        "trainer.logger=[console,file]",
        "trainer.val_before_train=False",
        "trainer.test_freq=-1",
        f"trainer.default_local_dir={folder / 'checkpoints'}",
        "trainer.max_actor_ckpt_to_keep=null",
    ]


def kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
