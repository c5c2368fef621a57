"""Run one command and, however it ends, leave none of its processes behind (Linux)."""

import contextlib
import ctypes
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

PR_SET_CHILD_SUBREAPER = 36
# Time for a clean exit, in which Ray and verl release their shared memory.
GRACE_SECONDS = 5.0
POLL_SECONDS = 1.0


class RunFailed(Exception):
    """The command ended with an error, or was found to be stuck."""


def run(command: Sequence[str], *, env: Mapping[str, str], log: Path, watch: Callable[[], None]) -> None:
    """Run `command` with its output in `log`, calling `watch` about once a second and once at the end.

    Every process that the command started, however deep or detached, has ended when this returns or raises. Signals
    that ask this process to stop are honoured by ending them first.

    Raises:
        RunFailed: when the command's exit status is not 0, or by `watch`.
        SystemExit: when this process was asked to stop.
    """
    _adopt_orphans()
    before = {number: signal.signal(number, _stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        with log.open("wb") as output:
            # A session of its own, so that a terminal's Ctrl-C reaches only us and the end is orderly.
            process = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
            while process.poll() is None:
                watch()
                time.sleep(POLL_SECONDS)
        watch()
        if process.returncode != 0:
            raise RunFailed(f"exit status {process.returncode}")
    finally:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        _end_descendants()
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, _frame) -> None:
    raise SystemExit(128 + number)


def _adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, so that the tree below us stays complete."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def _end_descendants() -> None:
    """Ask all descendants to end, and kill those that have not done so in time."""
    deadline = time.monotonic() + GRACE_SECONDS
    asked: set[psutil.Process] = set()
    while processes := psutil.Process().children(recursive=True):
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                if time.monotonic() > deadline:
                    process.kill()
                elif process not in asked:
                    process.terminate()
                    asked.add(process)
        # Also collects the exit status of our own children, without which they would stay in the list as zombies.
        psutil.wait_procs(processes, timeout=0.2)
