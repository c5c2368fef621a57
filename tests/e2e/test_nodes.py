"""A training on two Ray nodes, both on this machine, begun by hand; one dies, and the run is continued.

Minutes, so not part of the ordinary run: `bash tests/run.sh -m nodes`.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import pytest

from tests.e2e import tiny
from tests.e2e.conftest import tiny_overrides

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
# Two nodes with one address must not give the same port to two processes.
OWN_PORTS = ("--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0")
TIMEOUT_S = 300


class Cluster:
    """A head and a worker, each with ports and a folder of its own. The processes carry a mark in their environment."""

    def __init__(self):
        # Short: Ray makes sockets in it.
        self.folder = Path(tempfile.mkdtemp(prefix="nodes", dir="/tmp"))
        self.mark = f"SDPO_TEST_NODES={uuid.uuid4()}"
        name, value = self.mark.split("=")
        self.environment = {
            **os.environ,
            name: value,
            "PYTHON": sys.executable,
            "VERL_PLATFORM": "cpu",
            "HF_HUB_OFFLINE": "1",
            "RAY_raylet_start_wait_time_s": "180",
            "SDPO_SITE": "/dev/null",
            "SITE_CPUS": "32",
            "SITE_GPUS": "1",
        }
        self.script("head", "head", *OWN_PORTS)
        self.address = (self.folder / "head" / "address").read_text().strip()

    def script(self, node: str, *arguments: str) -> str:
        run = subprocess.run(
            ["bash", EXPERIMENTS / "cluster.sh", *arguments],
            env={**self.environment, "CLUSTER_DIR": str(self.folder / node), "CLUSTER_SECONDS": "120"},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        assert run.returncode == 0, run.stdout + run.stderr
        return run.stdout

    def join(self) -> str:
        """Let the second node join; returns what `status` says when both are there."""
        self.script("worker", "worker", self.address, *OWN_PORTS)
        return self.script("head", "status", "2")

    def kill_worker(self) -> None:
        """At once, as a power cut would."""
        os.killpg(int((self.folder / "worker" / "pid").read_text()), signal.SIGKILL)
        self.script("worker", "stop")

    def start(self, folder: Path, overrides: list[str], data: Path) -> subprocess.Popen:
        """A run by the job script, as `launcher.sh --local` starts it."""
        folder.mkdir(parents=True, exist_ok=True)
        return subprocess.Popen(
            ["bash", EXPERIMENTS / "job.sh", "bash", EXPERIMENTS / "train.sh", "sdpo", *overrides],
            env={
                **self.environment,
                **{"RAY_ADDRESS": self.address, "SDPO_SKIP_DOCTOR": "yes"},
                **{"RUN_DIR": str(folder), "RUN_STOP_DIR": str(folder / "checkpoints"), "RUN_STOP_SECONDS": "60"},
                **{"SDPO_DIR": str(data.parent), "TASK": data.name, "EXPERIMENT": folder.name},
            },
            stderr=subprocess.PIPE,
            text=True,
        )

    def processes(self) -> list[str]:
        """Command lines of the living processes with the mark."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if self.mark.encode() in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_text().replace("\0", " "))
        return found

    def close(self) -> None:
        for node in ("worker", "head"):
            self.script(node, "stop")


@pytest.fixture(scope="module")
def cluster():
    cluster = Cluster()
    try:
        yield cluster
    finally:
        cluster.close()
        shutil.rmtree(cluster.folder)
        assert cluster.processes() == []


def ended(process: subprocess.Popen) -> str:
    """Its output, when it ended well."""
    _, output = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output
    return output


def overrides(folder: Path, model: Path, data: Path) -> list[str]:
    return [
        *tiny_overrides(folder, model, data),
        *("trainer.nnodes=2", "trainer.total_training_steps=2", "trainer.save_freq=1"),
        "actor_rollout_ref.actor.optim.lr=1e-3",
    ]


def steps(folder: Path) -> list[dict]:
    """What the last attempt logged."""
    return [record["data"] for record in tiny.read_metrics(sorted(folder.glob("metrics-*.jsonl"))[-1])]


@pytest.fixture(scope="module")
def whole_run(cluster, tiny_model, tiny_data, tmp_path_factory):
    """Two steps on two nodes, undisturbed."""
    folder = tmp_path_factory.mktemp("whole")
    assert "2 nodes at" in cluster.join()
    ended(cluster.start(folder, overrides(folder, tiny_model, tiny_data), tiny_data))
    return folder


@pytest.mark.nodes
def test_two_steps_on_two_nodes(whole_run):
    assert [step["training/global_step"] for step in steps(whole_run)] == [1, 2]
    for step in steps(whole_run):
        assert step["actor/grad_norm"] > 0
        assert step["self_distillation/reprompt_sample_fraction"] > 0
        # Each node's engine got the weights of its step.
        assert step["training/rollout_probs_diff_mean"] < 1e-3
    saved = whole_run / "checkpoints" / "global_step_2" / "actor"
    for rank in range(2):
        assert (saved / f"model_world_size_2_rank_{rank}.pt").exists()
        assert (saved / "teacher" / f"model_world_size_2_rank_{rank}.pt").exists()


@pytest.mark.nodes
@pytest.mark.parametrize(("wanted", "status"), [(2, "OK"), (3, "FAIL")])
def test_the_doctor_counts_the_nodes(cluster, whole_run, wanted, status):
    trainer = {"nnodes": wanted, "n_gpus_per_node": 1}
    ask = f"from verl.sdpo.doctor.cluster import check_nodes; print(*check_nodes({trainer}))"
    environment = {**cluster.environment, "RAY_ADDRESS": cluster.address, "RAY_AUTH_MODE": "token"}
    command = [sys.executable, "-c", ask]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert run.stdout.split()[0] == status, run.stdout + run.stderr
    assert f"2 of 2 have 1 GPUs, {wanted} wanted" in run.stdout


@pytest.mark.nodes
def test_a_run_survives_the_death_of_a_node(cluster, whole_run, tiny_model, tiny_data, tmp_path):
    """Killed after the first step was saved; the node joins again, and step 2 is that of the undisturbed run."""
    options = overrides(tmp_path, tiny_model, tiny_data)
    process = cluster.start(tmp_path, options, tiny_data)
    saved = tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt"
    deadline = time.monotonic() + TIMEOUT_S
    while not saved.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    cluster.kill_worker()
    _, output = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode != 0, output
    assert saved.read_text() == "1"

    cluster.join()
    ended(cluster.start(tmp_path, options, tiny_data))
    (resumed,) = steps(tmp_path)
    undisturbed = steps(whole_run)[1]
    for name in ("actor/pg_loss", "self_distillation/kl", "self_distillation/teacher_student_distance"):
        assert resumed[name] == pytest.approx(undisturbed[name], rel=1e-5), name
    assert resumed["critic/score/mean"] == undisturbed["critic/score/mean"]
