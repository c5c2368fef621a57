"""One run from start to end: completion, failure, interruption, Slurm's time limit. The training is a fake Python."""

import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.experiments.conftest import DATASETS

NAME = "SDPO-rich-lcb_v6-Qwen3-8B-seed0"
SWEEP = "rich_feedback/run_sdpo.sh"
# Takes "steps" until it is asked to stop, as verl/sdpo/trainer/limits.py; at its second start it ends by itself.
TRAINING = """
[[ -e $FAKE/started ]] && exit 0
touch "$FAKE/started"
folder=$SDPO_CKPT_DIR/$EXPERIMENT
echo started
until [[ -e $folder/stop ]]; do sleep 0.1; done
mv "$folder/stop" "$folder/stopped"
echo 7 >"$folder/latest_checkpointed_iteration.txt"
"""


def wait_for(condition, seconds: float = 30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


@pytest.fixture
def job(machine):
    """`job(python)` submits one run to the fake Slurm and returns how to start it as Slurm would."""
    machine.add_slurm()
    machine.add_data(*DATASETS)
    machine.environment["SEEDS"] = "0"

    def submit(python: str):
        machine.training(python)
        assert machine.run(SWEEP).returncode == 0
        return lambda **environment: machine.start(machine.runs / NAME / "job.sh", SLURM_JOB_ID="1000", **environment)

    return submit


@pytest.fixture
def run_folder(machine):
    return machine.runs / NAME


def ended(process: subprocess.Popen) -> tuple[int, str]:
    _, stderr = process.communicate(timeout=60)
    return process.returncode, stderr


def requeued(machine) -> bool:
    return (machine.fake / "scontrol").exists()


def has_started(folder) -> bool:
    return any("started" in log.read_text() for log in folder.glob("output-*.log"))


def test_complete_run(job, machine, run_folder):
    status, stderr = ended(job('echo "trained $RUN_DIR"')())
    assert (status, stderr.rstrip().endswith(f"{NAME}: complete")) == (0, True)
    assert (run_folder / "complete").exists()
    (log,) = run_folder.glob("output-*.log")
    assert log.read_text() == f"trained {run_folder}\n"
    assert "complete, skipped" in machine.run(SWEEP).stderr


def test_failed_run_shows_the_end_of_its_output(job, machine, run_folder):
    status, stderr = ended(job("seq 30; echo 'no GPU' >&2; exit 3")())
    assert status == 3
    assert "failed with status 3; the end of" in stderr
    assert stderr.endswith("29\n30\nno GPU\n")
    assert "\n11\n" not in stderr
    assert not (run_folder / "complete").exists()
    assert not requeued(machine)


def test_time_limit_saves_stops_and_queues_again_then_continues(job, machine, run_folder):
    start = job(TRAINING)
    process = start()
    wait_for(lambda: has_started(run_folder))
    process.send_signal(signal.SIGUSR1)
    status, stderr = ended(process)
    assert status == 0, stderr
    assert "asked the training to save a checkpoint and stop" in stderr
    assert (machine.fake / "scontrol").read_text() == "requeue 1000\n"
    assert not (run_folder / "complete").exists()

    status, stderr = ended(start())
    assert (status, (run_folder / "complete").exists()) == (0, True), stderr
    assert (machine.fake / "scontrol").read_text() == "requeue 1000\n"
    assert not (machine.checkpoints / NAME / "stopped").exists()


def test_training_that_ends_by_itself_at_the_time_limit_is_complete(job, machine, run_folder):
    process = job("echo started; until [[ -e $SDPO_CKPT_DIR/$EXPERIMENT/stop ]]; do sleep 0.1; done")()
    wait_for(lambda: has_started(run_folder))
    process.send_signal(signal.SIGUSR1)
    assert ended(process)[0] == 0
    assert (run_folder / "complete").exists()
    assert not requeued(machine)


@pytest.mark.parametrize("has_checkpoint", [True, False])
def test_training_that_does_not_stop_in_time_is_ended(job, machine, run_folder, has_checkpoint):
    """It continues from its last checkpoint; without one, starting again would fail the same way for ever."""
    machine.add_slurm("SITE_STOP_SECONDS=1")
    save = (
        'mkdir -p "$SDPO_CKPT_DIR/$EXPERIMENT"; echo 5 >"$SDPO_CKPT_DIR/$EXPERIMENT/latest_checkpointed_iteration.txt"'
    )
    process = job(f"{save if has_checkpoint else ''}\necho started; sleep 600")()
    wait_for(lambda: has_started(run_folder))
    process.send_signal(signal.SIGUSR1)
    status, stderr = ended(process)
    assert requeued(machine) == has_checkpoint
    assert status == (0 if has_checkpoint else 1)
    assert ("no checkpoint was made before the time limit" in stderr) != has_checkpoint


def test_the_same_run_twice_is_refused(job, run_folder):
    start = job(TRAINING)
    first = start()
    wait_for(lambda: has_started(run_folder))
    status, stderr = ended(start())
    assert status == 1 and f"is running already: another job holds {run_folder}/lock" in stderr
    first.send_signal(signal.SIGUSR1)
    assert ended(first)[0] == 0


@pytest.fixture
def hang_up_ends_programs():
    """Under nohup it is ignored, and what is ignored when bash starts it cannot trap."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def test_a_lost_connection_ends_the_training(hang_up_ends_programs, job, run_folder):
    process = job("echo started; sleep 604")()
    wait_for(lambda: has_started(run_folder))
    process.send_signal(signal.SIGHUP)
    status, stderr = ended(process)
    assert (status, "interrupted" in stderr) == (143, True), stderr
    assert subprocess.run(["pgrep", "-f", "sleep 604"], check=False).returncode == 1


def test_stop_asked_for_by_hand_is_not_complete(job, machine, run_folder):
    process = job(TRAINING)()
    wait_for(lambda: has_started(run_folder))
    (machine.checkpoints / NAME / "stop").touch()
    status, stderr = ended(process)
    assert status == 75
    assert "stopped on request after a checkpoint; start it again to continue" in stderr
    assert not (run_folder / "complete").exists()
    assert not requeued(machine)


def test_a_training_that_the_guard_ended_is_not_complete(job, machine, run_folder):
    end = 'mkdir -p "$SDPO_CKPT_DIR/$EXPERIMENT"; touch "$SDPO_CKPT_DIR/$EXPERIMENT/stopped_by_guard"'
    status, stderr = ended(job(end)())
    assert status == 1
    assert "the guard ended it, see" in stderr and "guard.jsonl" in stderr
    assert not (run_folder / "complete").exists()


def test_interrupt_ends_every_process_of_the_run(job, machine, run_folder):
    process = job("sleep 601 & echo started $!; wait")()
    wait_for(lambda: has_started(run_folder))
    process.terminate()
    status, stderr = ended(process)
    assert (status, "interrupted; start it again to continue" in stderr) == (143, True)
    (log,) = run_folder.glob("output-*.log")
    child = log.read_text().split()[1]
    assert not is_running(child)
    assert not (run_folder / "complete").exists()


def test_run_that_hangs_after_its_error_is_ended(job, machine, run_folder):
    script = machine.repo / "experiments" / "job.sh"
    text = script.read_text()
    short = text.replace("HUNG_SECONDS=15\n", "HUNG_SECONDS=0.1\n")
    assert short != text
    script.write_text(short)
    status, stderr = ended(job("echo 'Error executing job with overrides: []'; sleep 602")())
    assert status == 143
    assert "Error executing job with overrides" in stderr
    assert "start it again to continue\n" in stderr
    assert "ended by signal" not in stderr


def test_a_killed_run_leaves_no_process_behind_and_says_how_it_ended(job, machine, run_folder):
    """A process of Ray's has a group of its own, and may outlive its driver."""
    script = machine.repo / "experiments" / "job.sh"
    script.write_text(script.read_text().replace("LEFT_SECONDS=10\n", "LEFT_SECONDS=1\n"))
    save = 'echo 5 >"$SDPO_CKPT_DIR/$EXPERIMENT/latest_checkpointed_iteration.txt"'
    status, stderr = ended(job(f"{save}; setsid sleep 606 & echo started $!; kill -KILL $$")())
    (log,) = run_folder.glob("output-*.log")
    assert not is_running(log.read_text().split()[1])
    assert status == 137
    assert "its process was ended by signal 9\n" in stderr
    assert "start it again to continue after step 5\n" in stderr


@pytest.mark.parametrize("error", ["Error executing job with overrides: []", "killed"])
def test_a_full_disk_is_named_once(job, machine, error):
    machine.command("df", "echo Avail; [[ $2 == /dev/shm ]] && echo 0 || echo 5000000")
    _, stderr = ended(job(f"echo '{error}'; sleep 1; exit 1")())
    assert stderr.count("the disk of /dev/shm is full: make room there") == 1
    assert stderr.count("is full") == 1


def is_running(pid: str) -> bool:
    try:
        stat = Path("/proc", pid, "stat").read_text()
    except FileNotFoundError:
        return False
    # A zombie whose new parent has not asked for its status yet has ended.
    return stat.rpartition(")")[2].split()[0] != "Z"


# Other commands than verl's trainer, and sweeps on this machine


def commands(machine, **runs: str) -> list[str]:
    """Recipes of one command each, for launcher.sh."""
    return [machine.recipe(name, command=["bash", "-c", command]) for name, command in runs.items()]


def test_any_command_is_ended_and_queued_again_at_the_time_limit(machine):
    machine.add_slurm()
    assert machine.run("launcher.sh", *commands(machine, one="echo started; sleep 603")).returncode == 0
    process = machine.start(machine.runs / "one" / "job.sh", SLURM_JOB_ID="1000")
    wait_for(lambda: has_started(machine.runs / "one"))
    process.send_signal(signal.SIGUSR1)
    status, stderr = ended(process)
    assert (status, requeued(machine)) == (0, True), stderr


def test_local_sweep_goes_on_after_a_failure_and_says_so(machine):
    sweep = ["launcher.sh", "--local", *commands(machine, good='echo "$RUN_DIR"', bad="exit 4", last="true")]
    run = machine.run(*sweep)
    assert run.returncode == 1
    assert run.stderr.endswith("# 2 ran, 0 skipped, 1 failed bad\n")
    (log,) = (machine.runs / "good").glob("output-*.log")
    assert log.read_text() == f"{machine.runs / 'good'}\n"
    again = machine.run(*sweep)
    assert again.stderr.endswith("# 0 ran, 2 skipped, 1 failed bad\n")


def test_interrupted_local_sweep_stops_at_once(machine):
    sweep = commands(machine, one="echo started; sleep 604", two="true")
    process = machine.start(machine.repo / "experiments" / "launcher.sh", "--local", *sweep)
    wait_for(lambda: has_started(machine.runs / "one"))
    process.terminate()
    status, stderr = ended(process)
    assert status == 143
    assert "one: interrupted" in stderr
    assert not (machine.runs / "two").exists()


def test_setup_of_the_site_comes_before_the_command(machine, tmp_path):
    (tmp_path / "site.env").write_text("SITE_SETUP='export GREETING=\"good day\"'\n")
    sweep = commands(machine, one="echo $GREETING")
    assert machine.run("launcher.sh", *sweep, "--local", "--site", str(tmp_path / "site.env")).returncode == 0
    (log,) = (machine.runs / "one").glob("output-*.log")
    assert log.read_text() == "good day\n"


# One training: where its records go


PRINT = (
    """printf '%s\\n' "$@" "METRICS=$VERL_FILE_LOGGER_PATH" "TENSORBOARD=$TENSORBOARD_DIR" "RESUME=${WANDB_RESUME-}" """
)


def train(machine, **environment: str) -> list[str]:
    machine.training(PRINT)
    machine.add_data(*DATASETS)
    run = machine.run(SWEEP, "--local", "trainer.total_epochs=2", SEEDS="0", **environment)
    assert run.returncode == 0, run.stderr
    (log,) = (machine.runs / NAME).glob("output-*.log")
    return log.read_text().splitlines()


def test_training_command(machine):
    lines = train(machine)
    folder = machine.runs / NAME
    assert lines[:4] == ["-m", "verl.trainer.main_ppo", "--config-name", "sdpo"]
    assert "hydra.run.dir=${oc.env:RUN_DIR}/hydra" in lines
    assert lines.index("trainer.total_epochs=2") > lines.index("trainer.total_training_steps=80")
    (attempt,) = folder.glob("output-*.log")
    assert f"METRICS={folder}/{attempt.name.replace('output', 'metrics').replace('.log', '.jsonl')}" in lines
    assert f"TENSORBOARD={folder}/tensorboard" in lines


def test_doctor_comes_first_and_has_the_same_overrides(machine):
    machine.training("printf 'training %s\\n' \"$@\"", doctor="printf 'doctor %s\\n' \"$@\"; exit $STATUS")
    machine.add_data(*DATASETS)
    machine.environment["SEEDS"] = "0"
    run = machine.run(SWEEP, "--local", "a=b", STATUS="1")
    assert run.returncode == 1
    assert "doctor a=b" in run.stderr
    assert "start all the same with SDPO_SKIP_DOCTOR=yes" in run.stderr
    assert "training -m" not in "".join(log.read_text() for log in (machine.runs / NAME).glob("output-*.log"))
    assert machine.run(SWEEP, "--local", STATUS="1", SDPO_SKIP_DOCTOR="yes").returncode == 0


def test_a_sweep_ends_with_the_reports_path(machine):
    machine.training("exit 0", report='touch "$5"; printf "report %s\\n" "$@"')
    machine.add_data(*DATASETS)
    run = machine.run(SWEEP, "--local", SEEDS="0")
    page = machine.runs / NAME / "report.html"
    assert f"complete; report: {page}" in run.stderr
    (log,) = (machine.runs / NAME).glob("output-*.log")
    assert log.read_text().splitlines()[-5:] == [
        f"report {word}" for word in ("-m", "verl.sdpo.report", page.parent, "--out", page)
    ]


def test_a_run_without_a_report_is_complete_all_the_same(machine):
    machine.training("exit 0", report="exit 1")
    machine.add_data(*DATASETS)
    run = machine.run(SWEEP, "--local", SEEDS="0")
    assert run.returncode == 0
    assert run.stderr.count(": complete\n") == 1
    assert (machine.runs / NAME / "complete").exists()


@pytest.mark.parametrize(("environment", "has_wandb"), [({}, False), ({"WANDB_API_KEY": "x"}, True)])
def test_wandb_is_used_only_with_a_login(machine, environment, has_wandb):
    lines = train(machine, **environment)
    loggers = "console,tensorboard,file" + (",wandb" if has_wandb else "")
    assert f"trainer.logger=[{loggers}]" in lines
    assert ("RESUME=allow" in lines) == has_wandb
    assert (machine.runs / NAME / "wandb_id").exists() == has_wandb


def test_a_machine_without_a_home_folder(machine):
    del machine.environment["HOME"]
    assert "trainer.logger=[console,tensorboard,file]" in train(machine)


def test_machine_without_python(machine, tmp_path):
    """The recipes are read with the one that is there; the run is to use another."""
    machine.add_data(*DATASETS)
    (tmp_path / "site.env").write_text("SITE_PYTHON=no-such-python\n")
    run = machine.run(SWEEP, "--local", "--site", str(tmp_path / "site.env"), SEEDS="0")
    assert run.returncode == 1
    assert (
        "There is no Python 'no-such-python': set PYTHON, or SITE_PYTHON and SITE_SETUP in the site file." in run.stderr
    )
