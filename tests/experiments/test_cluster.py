"""One run on several nodes: Slurm and Ray are fake, the scripts are real. With a real Ray: tests/e2e/test_nodes.py."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from tests.experiments.conftest import DATASETS
from tests.experiments.test_job import NAME, SWEEP, TRAINING, ended, has_started, requeued, wait_for

SITE = """
SITE_NODES=3
SITE_CPUS=64
SITE_GPUS=4
SITE_SRUN_FLAGS=(--container-image=/images/sdpo.sqsh)
"""
# `ray start --block`: the node is there as long as its file.
RAY = """
[[ $3 == start ]] || exit 0
shift 2
printf '%s\\n' "$@" >"$FAKE/ray.$SLURM_PROCID"
[[ ${BROKEN-} != "$SLURM_PROCID" ]] || { echo 'no such device'; exit 1; }
trap 'kill $!; rm "$FAKE/node.$SLURM_PROCID"; exit' TERM
sleep 600 &
echo $$ >"$FAKE/node.$SLURM_PROCID"
echo 'Ray runtime started.'
wait
"""
NODES = """
[[ $3 == address ]] && { echo 10.0.0.1:6379; exit; }
for ((tenths = 0; tenths < 10 * $6; tenths++)); do
    (($(ls "$FAKE" | grep -c '^node') < $5)) || { echo "$5 nodes at $4"; exit; }
    sleep 0.1
done
exit 1
"""


@pytest.fixture
def job(machine):
    """`job(training)` submits one run on three nodes and returns how to start it as Slurm would."""
    machine.add_slurm(SITE)
    machine.add_data(*DATASETS)
    fake = Path(__file__).with_name("fake_srun.py")
    machine.command("srun", f'exec {sys.executable} {fake} "$@"')
    # Short, as on a real node: sockets are made in it.
    machine.environment |= {"SEEDS": "0", "TMPDIR": str(machine.fake / "tmp")}

    def submit(training: str, **environment: str):
        machine.training(training, more={"ray.scripts.scripts": RAY, "experiments.cluster_nodes": NODES})
        assert machine.run(SWEEP).returncode == 0
        environment |= {"SLURM_JOB_ID": "1000", "CLUSTER_SECONDS": "20"} | environment
        return lambda: machine.start(machine.runs / NAME / "job.sh", **environment)

    yield submit
    shutil.rmtree(machine.fake / "tmp", ignore_errors=True)


def nodes(machine) -> list[str]:
    return sorted(path.name for path in machine.fake.glob("node.*"))


def assert_nothing_is_left(machine):
    assert nodes(machine) == []
    assert list((machine.runs / NAME).glob("cluster-*")) == []


SEE = """
printf '%s\\n' "$@"
echo "ADDRESS=$RAY_ADDRESS"
echo "JOB=$RAY_JOB_CONFIG_JSON_ENV_VAR"
ls "$FAKE" | grep '^node'
"""


def test_the_training_runs_on_all_nodes(job, machine):
    status, stderr = ended(job(SEE)())
    (log,) = (machine.runs / NAME).glob("output-*.log")
    text = log.read_text()
    assert status == 0, stderr + text
    assert (machine.fake / "srun").read_text().splitlines() == [
        *("--nodes=3", "--ntasks=3", "--ntasks-per-node=1", "--kill-on-bad-exit=1"),
        *("--cpus-per-task=64", "--container-image=/images/sdpo.sqsh"),
    ]
    assert text.count("main_ppo") == 1
    assert {"trainer.nnodes=3", "trainer.n_gpus_per_node=4", "++ray_kwargs.ray_init.num_cpus=null"} <= set(text.split())
    assert "ADDRESS=10.0.0.1:6379\n" in text
    assert "node.0\nnode.1\nnode.2\n" in text
    (environment,) = (line[4:] for line in text.splitlines() if line.startswith("JOB="))
    variables = json.loads(environment)["runtime_env"]["env_vars"]
    assert variables["RUN_DIR"] == str(machine.runs / NAME)
    assert variables["VERL_FILE_LOGGER_PATH"].endswith(".jsonl")
    starts = [set((machine.fake / f"ray.{number}").read_text().split()) for number in range(3)]
    assert all({"start", "--block", "--num-cpus=64", "--num-gpus=4"} <= start for start in starts)
    assert {"--head", "--port=6379"} <= starts[0]
    assert all("--address=10.0.0.1:6379" in start and "--head" not in start for start in starts[1:])
    assert_nothing_is_left(machine)


def test_the_time_limit_ends_the_nodes_and_queues_again(job, machine):
    start = job(TRAINING)
    process = start()
    wait_for(lambda: has_started(machine.runs / NAME))
    assert nodes(machine) == ["node.0", "node.1", "node.2"]
    process.send_signal(signal.SIGUSR1)
    status, stderr = ended(process)
    assert (status, requeued(machine)) == (0, True), stderr
    assert_nothing_is_left(machine)
    assert ended(start())[0] == 0
    assert (machine.runs / NAME / "complete").exists()


def test_an_interrupt_ends_the_nodes(job, machine):
    process = job("echo started; sleep 605")()
    wait_for(lambda: has_started(machine.runs / NAME))
    process.terminate()
    status, stderr = ended(process)
    assert (status, "interrupted; start it again to continue" in stderr) == (143, True)
    assert_nothing_is_left(machine)


def test_a_failure_ends_the_nodes(job, machine):
    status, stderr = ended(job("echo 'no GPU'; exit 3")())
    assert status != 0
    assert "no GPU" in stderr
    assert_nothing_is_left(machine)


def test_a_node_that_does_not_come_is_said(job, machine):
    status, stderr = ended(job("echo started", BROKEN="2")())
    assert status != 0
    assert "no such device" in stderr
    assert "Ray has ended here" in stderr
    assert not has_started(machine.runs / NAME)
    assert_nothing_is_left(machine)


def test_a_node_that_dies_ends_the_run(job, machine):
    process = job("echo started; sleep 606")()
    wait_for(lambda: has_started(machine.runs / NAME))
    ray = (machine.fake / "node.2").read_text()
    os.kill(int(ray), signal.SIGKILL)
    (machine.fake / "node.2").unlink()
    status, stderr = ended(process)
    assert (status != 0, "Ray has ended here" in stderr) == (True, True), stderr
    assert_nothing_is_left(machine)


# What the launcher makes of it


def test_other_programs_have_one_node(machine):
    machine.add_slurm(SITE)
    run = machine.run("launcher.sh", machine.recipe("one", command=["true"]), "--dry-run")
    assert "--nodes=1\n" in run.stdout
    assert "cluster.sh" not in run.stdout


def test_on_this_machine_a_cluster_must_be_there(machine):
    machine.add_slurm(SITE)
    machine.add_data(*DATASETS)
    machine.environment["SEEDS"] = "0"
    run = machine.run(SWEEP, "--local")
    assert run.returncode == 1
    assert run.stderr == (
        "SITE_NODES=3 with --local: begin a cluster with experiments/cluster.sh, and set RAY_ADDRESS.\n"
    )
    run = machine.run(SWEEP, "--local", "--dry-run", RAY_ADDRESS="10.0.0.1:6379")
    assert "export RAY_ADDRESS=10.0.0.1:6379\n" in run.stdout
    assert "trainer.nnodes=3" in run.stdout
    assert "srun" not in run.stdout


@pytest.mark.parametrize("number", ["two", "0", "1.5"])
def test_a_number_of_nodes_that_is_none(machine, number):
    machine.add_slurm(f"SITE_NODES={number}\n")
    run = machine.run(SWEEP, "--dry-run")
    assert (run.returncode, run.stderr) == (1, f"SITE_NODES={number} in the site file is not a number of nodes.\n")


# By hand


def test_how_to_use_it_and_what_it_refuses(machine):
    run = machine.run("cluster.sh")
    assert run.returncode == 2
    assert "bash experiments/cluster.sh head [RAY FLAGS] " in run.stderr
    assert "worker needs the address" in machine.run("cluster.sh", "worker").stderr
    assert "no cluster was begun or joined here" in machine.run("cluster.sh", "status").stderr
    assert machine.run("cluster.sh", "stop").returncode == 0


def test_begin_join_and_stop_by_hand(machine):
    machine.add_slurm("SITE_CPUS=8\n")
    machine.training("exit 0", more={"ray.scripts.scripts": RAY, "experiments.cluster_nodes": NODES})
    folders = [str(machine.fake / name) for name in ("c0", "c1")]
    run = machine.run("cluster.sh", "head", CLUSTER_DIR=folders[0], SLURM_PROCID="0")
    assert run.returncode == 0, run.stderr
    assert "bash experiments/cluster.sh worker 10.0.0.1:6379" in run.stdout
    again = machine.run("cluster.sh", "head", CLUSTER_DIR=folders[0], SLURM_PROCID="0")
    assert "there is a node already" in again.stderr
    join = ("cluster.sh", "worker", "10.0.0.1:6379", "--min-worker-port=0")
    assert machine.run(*join, CLUSTER_DIR=folders[1], SLURM_PROCID="1").returncode == 0
    assert {"--num-cpus=8", "--min-worker-port=0"} <= set((machine.fake / "ray.1").read_text().split())
    assert machine.run("cluster.sh", "status", "2", CLUSTER_DIR=folders[1]).stdout == "2 nodes at 10.0.0.1:6379\n"
    for folder in folders:
        assert machine.run("cluster.sh", "stop", CLUSTER_DIR=folder).returncode == 0
    wait_for(lambda: nodes(machine) == [])
