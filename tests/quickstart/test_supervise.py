"""Whatever happens to a run, none of its processes may stay."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

REPO = Path(__file__).parents[2]
# Stands for verl: a child in a session of its own, orphaned (as Ray's daemons are) and deaf to SIGTERM, and the command
# itself, which does as its last argument says.
FAKE = """
import pathlib, subprocess, sys, time
daemon = (
    "import os, pathlib, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); os.setsid();"
    "pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(600)"
)
middle = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1], sys.argv[2]])"
subprocess.run([sys.executable, "-c", middle, daemon, sys.argv[1]], check=True)
while not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.05)
print("started", flush=True)
if sys.argv[2] == "hang":
    time.sleep(600)
sys.exit(int(sys.argv[2]))
"""
SUPERVISOR = """
import os, signal, sys
from pathlib import Path
from experiments.quickstart import supervise
supervise.GRACE_SECONDS = 1.0
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
before = [signal.getsignal(number) for number in SIGNALS]
folder, fake, ending, watch = Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
def see():
    (folder / "seen").touch()
    if watch == "stuck" and (folder / "pid").exists():
        raise supervise.RunFailed("stuck")
try:
    command = [sys.executable, "-c", fake, str(folder / "pid"), ending]
    supervise.run(command, env=os.environ, log=folder / "log", watch=see)
except supervise.RunFailed as error:
    print(error)
    sys.exit(1)
assert [signal.getsignal(number) for number in SIGNALS] == before, "Ctrl-C ends what comes after"
"""


def start(folder, ending, watch="-"):
    arguments = [sys.executable, "-c", textwrap.dedent(SUPERVISOR), str(folder), FAKE, ending, watch]
    return subprocess.Popen(arguments, cwd=REPO, stdout=subprocess.PIPE, text=True)


def finish(process, folder):
    """Output and exit status, once it is certain that the orphan had lived and has ended."""
    output, _ = process.communicate(timeout=60)
    assert not psutil.pid_exists(int((folder / "pid").read_text()))
    return output, process.returncode


def test_success_is_quiet_and_ends_what_the_command_left(tmp_path):
    assert finish(start(tmp_path, "0"), tmp_path) == ("", 0)
    assert (tmp_path / "log").read_text() == "started\n"
    assert (tmp_path / "seen").exists()


def test_a_failure_is_reported(tmp_path):
    assert finish(start(tmp_path, "3"), tmp_path) == ("exit status 3\n", 1)


def test_a_stuck_command_is_ended_by_watch(tmp_path):
    assert finish(start(tmp_path, "hang", "stuck"), tmp_path) == ("stuck\n", 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything(tmp_path, number):
    process = start(tmp_path, "hang")
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, number)
    assert finish(process, tmp_path) == ("", 128 + number)
