"""The pool's side of one fork server: starting it, requesting runs, watching the clock, ending it."""

import contextlib
import glob
import importlib.util
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl.utils.reward_score.feedback.sandbox.api import Level

PACKAGES = ("numpy", "sortedcontainers")
"""Third-party packages that programs may import, where this environment has them."""

_STDLIB_PRELOAD = """
array asyncio bisect cmath collections concurrent.futures copy ctypes dataclasses datetime decimal enum fractions
functools heapq inspect io itertools json math operator queue random re statistics string textwrap threading time
traceback typing
"""
_SYSTEM_PATHS = """
/dev/null /dev/random /dev/urandom /dev/zero /etc/ld.so.cache /etc/localtime /lib /lib64 /usr/lib /usr/lib64
/usr/share/zoneinfo
"""
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/nonexistent",
    # The order of sets, and with it a reward, must not depend on the process.
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "CUDA_VISIBLE_DEVICES": "",
    **{f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "VECLIB_MAXIMUM")},
}
_START = "import sys; sys.path[0] = sys.argv[1]; from jail.server import main; main(sys.argv[2])"
_START_SECONDS = 30.0
# Long, for a machine that starves us; a server that is stopped or stuck costs this once.
_ANSWER_SECONDS = 10.0
_END_SECONDS = 2.0
STARVED_SECONDS = 300.0
"""A program that waits for a core gets its waiting back; beyond this the machine is to blame."""


class ServerFault(Exception):
    """The fork server died, hung or could not fork; nothing is known about the program."""


@dataclass(frozen=True)
class Layers:
    """The layers that a fork server is asked for."""

    namespaces: bool = True
    landlock: bool = True
    seccomp: bool = True
    bubblewrap: bool = False

    @classmethod
    def up_to(cls, level: Level) -> "Layers":
        return cls(namespaces=level >= Level.L3, landlock=level >= Level.L2, seccomp=level >= Level.L1)


@dataclass
class Exit:
    """The end of one process of a run: wait status, CPU seconds, peak resident bytes."""

    status: int
    cpu: float
    rss: int


@dataclass
class Ended:
    """A run that the server saw to its end.

    exits: the program's, or the driver's and the program's. crowded: it was ended for its number of threads.
    """

    exits: list[Exit]
    seconds: float
    out_of_time: bool
    crowded: bool = False


class ForkServer:
    """One fork server, for one thread at a time. Raises ServerFault when it cannot be started."""

    def __init__(self, layers: Layers, *, numpy: bool = False):
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Children report in; only the kernel knows their pids in our namespace.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._complaints = os.memfd_create("sandbox-stderr")
        spec = _spec(layers, theirs.fileno(), numpy=numpy)
        with theirs:
            self._process = subprocess.Popen(
                [*_bubblewrap(layers, spec["visible"]), *_interpreter(), json.dumps(spec)],
                env=_ENVIRONMENT,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._complaints,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        try:
            self._start()
        except BaseException:
            self.end()
            raise
        self.runs = 0

    def _start(self) -> None:
        self.pid, self._pidfd = 0, -1
        message, self.pid = self._receive(time.monotonic() + _START_SECONDS)
        if not message:
            complaint = os.pread(self._complaints, 2000, 0).decode(errors="replace").strip()
            raise ServerFault(f"the fork server did not start: {complaint or 'no message'}")
        # Whoever started the server inside its namespaces reaps it, and then its number may become another process's.
        with contextlib.suppress(ProcessLookupError):
            self._pidfd = os.pidfd_open(self.pid)
        self.report: dict[str, str] = json.loads(message)

    def run(self, request: dict[str, Any], descriptors: list[int], wall: float) -> Ended:
        """Run one program; `wall` is its limit in seconds, not counting time spent waiting for a core.

        Raises ServerFault when the server fails; it is of no use afterwards.
        """
        self.runs += 1
        start = time.monotonic()
        pids: list[int] = []
        deadline, out_of_time = start + wall, False
        try:
            socket.send_fds(self._socket, [json.dumps(request).encode()], descriptors)
        except OSError as error:
            raise ServerFault(f"the fork server is gone: {error.strerror}") from None
        while True:
            message, pid = self._receive(deadline)
            if message == b"start":
                pids.append(pid)
            elif message:
                return _ended(message, time.monotonic() - start, out_of_time)
            elif out_of_time:
                raise ServerFault("the fork server does not answer")
            else:
                waited = _waited_for_core(pids)
                if waited > STARVED_SECONDS:
                    raise ServerFault(f"no core was free for the program for {waited:.0f} s")
                if start + wall + waited > deadline + 0.01:
                    deadline = start + wall + waited
                    continue
                self._socket.send(b"kill")
                deadline, out_of_time = time.monotonic() + _ANSWER_SECONDS, True

    def _receive(self, deadline: float) -> tuple[bytes, int]:
        """Return the next message and its sender's pid; b"" at the deadline. Raises ServerFault at the socket's end."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return b"", 0
        try:
            message, ancillary, _, _ = self._socket.recvmsg(1 << 16, socket.CMSG_SPACE(12))
        except OSError as error:
            raise ServerFault(f"the fork server is gone: {error.strerror}") from None
        if not message:
            complaint = os.pread(self._complaints, 2000, 0).decode(errors="replace").strip()
            raise ServerFault(f"the fork server died. {complaint}".strip())
        # struct ucred: pid, uid, gid.
        return message, struct.unpack("=iii", ancillary[0][2])[0]

    def end(self) -> None:
        """Kill the server, with it its children, and wait for the process."""
        self._socket.close()
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            os.close(self._pidfd)
            self._pidfd = -1
        try:
            # Whoever started the server inside its namespaces follows it.
            self._process.wait(_END_SECONDS if self.pid else 0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._complaints)


def _ended(message: bytes, seconds: float, out_of_time: bool) -> Ended:
    reply = json.loads(message)
    if "fault" in reply:
        raise ServerFault(reply["fault"])
    return Ended([Exit(**item) for item in reply["exits"]], seconds, out_of_time, reply["crowded"])


def _waited_for_core(pids: list[int]) -> float:
    """Return for how many seconds these processes were ready to run and did not.

    Of each process only the thread that waited longest counts: what its threads wait for each other is its own doing.
    See linux/Documentation/scheduler/sched-stats.rst.
    """
    return (
        sum(max((_waited(path) for path in glob.glob(f"/proc/{pid}/task/*/schedstat")), default=0) for pid in pids)
        / 1e9
    )


def _waited(path: str) -> int:
    try:
        return int(Path(path).read_text().split()[1])
    except OSError:
        return 0


def _interpreter() -> list[str]:
    # Not a virtual environment's or pyenv's launcher; without `site`, whose .pth files take longer than the rest.
    real = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    return [real, "-s", "-S", "-c", _START, str(Path(__file__).parent)]


def _spec(layers: Layers, control: int, *, numpy: bool) -> dict[str, Any]:
    packages = _packages()
    preload = _STDLIB_PRELOAD.split() + (list(packages) if numpy else [])
    return {
        "control": control,
        "namespaces": layers.namespaces and not layers.bubblewrap,
        "landlock": layers.landlock,
        "seccomp": layers.seccomp,
        "visible": visible_paths(packages),
        "packages": packages,
        "preload": preload,
    }


def _packages() -> dict[str, str]:
    specs = {name: importlib.util.find_spec(name) for name in PACKAGES}
    return {name: os.path.dirname(spec.origin) for name, spec in specs.items() if spec and spec.origin}


def visible_paths(packages: dict[str, str]) -> list[str]:
    """Return all that programs may read: Python's library, shared libraries, the allowed packages, four devices."""
    paths = {*_SYSTEM_PATHS.split(), os.path.dirname(os.path.realpath(os.__file__))}
    paths.update(glob.glob(os.path.realpath(sys.base_prefix) + "/lib/*.so*"))
    for folder in packages.values():
        # Wheels keep their shared libraries next to the package.
        paths.update(path for path in (folder, folder + ".libs") if os.path.exists(path))
    return sorted(paths)


def _bubblewrap(layers: Layers, visible: list[str]) -> list[str]:
    if not layers.bubblewrap:
        return []
    program = shutil.which("bwrap")
    assert program, "asked for without looking"
    command = [program, "--unshare-all"]
    # The interpreter and this package: read once, at the start, before Landlock closes them.
    for path in [*visible, os.path.realpath(sys._base_executable), str(Path(__file__).parent)]:  # type: ignore[attr-defined]
        if os.path.islink(path):
            command += ["--symlink", os.readlink(path), path]
        elif os.path.exists(path):
            command += ["--dev-bind" if path.startswith("/dev/") else "--ro-bind", path, path]
    return [*command, "--"]
