"""Faults of the sandbox itself: each is retried once, never blamed on the program, and survived."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.feedback.sandbox.conftest import Lease, children_of
from verl.utils.reward_score.feedback.sandbox import Job, Level, Status, TestInput, canaries, fork_server
from verl.utils.reward_score.feedback.sandbox.fork_server import Layers, ServerFault
from verl.utils.reward_score.feedback.sandbox.runner import run_job

_ECHO = Job("print(input())", "stdin", (TestInput("1"),), time_limit=0.2)
_SLOW = Job("import time\ntime.sleep(0.5)\nprint(1)", "stdin", (TestInput(""),), time_limit=0.3)


@pytest.fixture
def fresh() -> Iterator[Lease]:
    lease = Lease(Layers())
    yield lease
    lease.current.end()


def _during(lease: Lease, action: Callable[[int], None]) -> threading.Thread:
    """Do something to the server once its program runs."""
    pid = lease.current.pid

    def act() -> None:
        while not children_of(pid):
            time.sleep(0.005)
        action(pid)

    thread = threading.Thread(target=act)
    thread.start()
    return thread


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_server_lost_in_mid_test_is_replaced(fresh: Lease, number: signal.Signals) -> None:
    lost = fresh.current.pid
    thread = _during(fresh, lambda pid: os.kill(pid, number))
    outcome = run_job(_SLOW, fresh)[0]
    thread.join()
    assert (outcome.status, outcome.stdout) == (Status.OK, "1\n")
    assert fresh.discarded == 1 and fresh.current.pid != lost
    assert not os.path.exists(f"/proc/{lost}")


def test_a_server_lost_between_tests_is_replaced(fresh: Lease) -> None:
    os.kill(fresh.current.pid, signal.SIGKILL)
    assert run_job(_ECHO, fresh)[0].status is Status.OK
    assert fresh.discarded == 1


def test_a_server_lost_twice_is_a_sandbox_error(fresh: Lease) -> None:
    def kill_twice() -> None:
        for _ in range(2):
            pid = fresh.current.pid
            while not children_of(pid):
                time.sleep(0.005)
            os.kill(pid, signal.SIGKILL)
            while fresh.current.pid == pid:
                time.sleep(0.005)

    thread = threading.Thread(target=kill_twice)
    thread.start()
    outcome = run_job(_SLOW, fresh)[0]
    thread.join()
    assert outcome.status is Status.SANDBOX_ERROR and "fork server" in outcome.message
    assert run_job(_ECHO, fresh)[0].status is Status.OK


def test_a_server_out_of_descriptors_is_replaced(fresh: Lease) -> None:
    open_ones = len(os.listdir(f"/proc/{fresh.current.pid}/fd"))
    resource.prlimit(fresh.current.pid, resource.RLIMIT_NOFILE, (open_ones + 2, open_ones + 2))
    assert run_job(_ECHO, fresh)[0].status is Status.OK
    assert fresh.discarded == 1


def test_being_out_of_descriptors_ourselves_is_a_sandbox_error(fresh: Lease, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "memfd_create", refuse)
        patch.setattr(fresh, "discard", lambda: None)
        outcome = run_job(_ECHO, fresh)[0]
    assert outcome.status is Status.SANDBOX_ERROR and "Too many open files" in outcome.message
    assert run_job(_ECHO, fresh)[0].status is Status.OK


def test_a_fork_that_fails_is_a_server_fault() -> None:
    with pytest.raises(ServerFault, match="Resource temporarily unavailable"):
        fork_server._ended(b'{"fault": "fork server: Resource temporarily unavailable"}', 0.0, False)


def test_a_test_that_cannot_run_is_a_sandbox_error(fresh: Lease) -> None:
    program = "def f(x): return x"
    for source in ("assert f(", "assert f(lambda: 1)"):
        outcome = run_job(Job(program, "assert", (TestInput(source),), fn_name="f"), fresh)[0]
        assert outcome.status is Status.SANDBOX_ERROR and "the test" in outcome.message


def test_a_pid_that_became_another_process_is_not_signalled(fresh: Lease) -> None:
    with subprocess.Popen(["sleep", "60"]) as bystander:
        server = fork_server.ForkServer(Layers())
        server.pid = bystander.pid
        server.end()
        assert bystander.poll() is None
        bystander.kill()


def test_waiting_for_a_core_is_that_of_the_thread_that_waited_longest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for process, waits in ((1, (4, 5, 6)), (2, (1,))):
        for number, seconds in enumerate(waits):
            (tmp_path / f"{process}-{number}").write_text(f"0 {seconds * 10**9} 0\n")

    def paths(pattern: str) -> list[str]:
        return [str(path) for path in tmp_path.glob(f"{pattern.split('/')[2]}-*")]

    monkeypatch.setattr(fork_server.glob, "glob", paths)
    assert fork_server._waited_for_core([1, 2]) == 7


def test_a_server_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_server, "_interpreter", lambda: [sys.executable, "-c", "raise SystemExit('no luck')"])
    with pytest.raises(ServerFault, match="no luck"):
        fork_server.ForkServer(Layers())


_CHECK = [sys.executable, "-m", "verl.utils.reward_score.feedback.sandbox"]
_needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to change the machine under the sandbox")


def _check_under(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*command, *_CHECK], capture_output=True, text=True, timeout=120)


@_needs_root
def test_a_full_dev_shm_does_not_matter() -> None:
    script = 'mount -t tmpfs -o size=16k none /dev/shm && head -c 1M /dev/zero >/dev/shm/full 2>/dev/null; exec "$@"'
    done = _check_under("unshare", "--mount", "sh", "-c", script, "sh")
    assert "level=L3" in done.stdout, done.stderr


@_needs_root
def test_without_user_namespaces_the_level_falls_and_the_reason_is_told() -> None:
    script = 'echo 0 >/proc/sys/user/max_user_namespaces && PATH= exec "$@"'
    done = _check_under("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh")
    assert "level=L2" in done.stdout, done.stderr
    assert "namespaces: no (unshare: No space left on device); needs sysctl user.max_user_namespaces" in done.stdout
    assert done.returncode == 0


@_needs_root
def test_in_an_unprivileged_container_the_files_stay_closed() -> None:
    # What enroot leaves to a user: no new privileges, and none to win back.
    container = "unshare --user --map-current-user --mount setpriv --no-new-privs --bounding-set=-all"
    done = _check_under(*container.split(" "))
    assert "level=L3" in done.stdout or "level=L2" in done.stdout, done.stderr


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_bubblewrap_stands_in_where_the_sandbox_may_make_no_namespaces() -> None:
    machine = canaries._examine(Layers(bubblewrap=True))
    assert (machine.level, machine.report["namespaces"], machine.escaped) == (Level.L3, "bubblewrap", ())


@pytest.mark.parametrize("level", [Level.L0, Level.L3])
def test_a_long_folder_for_temporary_files_is_no_obstacle(
    level: Level, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("x" * 150)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    machine = canaries._examine(Layers.up_to(level))
    assert machine.level is level
    assert ("unix" in machine.escaped) is (level is Level.L0)
    assert list(folder.iterdir()) == []
