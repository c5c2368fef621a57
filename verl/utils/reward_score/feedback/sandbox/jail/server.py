"""The fork server, which enters the jail once and then forks a child for every run that it is asked for.

It talks to its pool over one SOCK_SEQPACKET socket. A request is a JSON header with descriptors (program, input,
stdout, stderr, result; for assertion tests also the test and its verdict); what those hold it never reads. Children
announce themselves with `start`, so that the pool learns their pids; the server answers with how each of them ended.
It ends when the socket does.
"""

import errno
import fcntl
import gc
import importlib
import importlib.machinery
import importlib.util
import json
import os
import platform
import resource
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

from . import assertion, harness, landlock, lcb, namespaces, seccomp
from .libc import LIBC, check

_MIB = 1 << 20
# Grows on demand up to here; more would need the limit set before exec.
_STACK = 120 * _MIB
_THREAD_STACK = 16 * _MIB
_OPEN_FILES = 64
_NICENESS = 5
_MAX_HEADER = 1 << 16
# No descriptor of the server is above it.
_HIGHEST = 256
_FLUSH_SECONDS = 0.2
# As many as fit into the default address space with the default stack. The kernel has no such limit for one process:
# RLIMIT_NPROC counts all processes of the user, and none of root's.
_MAX_THREADS = 256
_WATCH_SECONDS = 0.02
_PR_SET_NO_NEW_PRIVS, _PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 38, 1, 4
_DEV_NULL = os.open(os.devnull, os.O_RDWR)


def main(spec_text: str) -> NoReturn:
    """Serve runs. spec: control (descriptor), namespaces, landlock, seccomp (booleans), visible, packages, preload."""
    spec = json.loads(spec_text)
    control = socket.socket(fileno=spec["control"])
    _limit_server()
    report = _confine(spec)
    control.send(json.dumps(report).encode())
    gc.collect()
    gc.freeze()
    _serve(control, confined=report["seccomp"] == platform.machine())


def _limit_server() -> None:
    try:
        # Out of memory, programs go first.
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError:
        pass
    os.nice(_NICENESS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    stack = _STACK if hard == resource.RLIM_INFINITY else min(_STACK, hard)
    resource.setrlimit(resource.RLIMIT_STACK, (stack, hard))
    threading.stack_size(_THREAD_STACK)


def _confine(spec: dict[str, Any]) -> dict[str, str]:
    """Enter each layer asked for; return per layer what was entered, "off", or "no (...)"."""
    report = {}
    # Before numpy: its threads would forbid leaving the user namespace.
    report["namespaces"] = _try(spec["namespaces"], lambda: namespaces.enter(spec["visible"]))
    _import_allowed(spec["packages"], spec["preload"])
    harness.prepare()
    LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    report["landlock"] = _try(spec["landlock"], lambda: _restrict_files(spec["visible"]))
    # struct __user_cap_header_struct, version 3, and two empty sets.
    LIBC.capset(struct.pack("=Ii", 0x20080522, 0), bytes(24))
    report["seccomp"] = _try(spec["seccomp"], lambda: _filter_calls(not report["landlock"].startswith("abi")))
    return report


def _try(wanted: bool, enter: Callable[[], str]) -> str:
    if not wanted:
        return "off"
    try:
        return enter()
    except OSError as error:
        return f"no ({error.strerror})"


def _restrict_files(visible: list[str]) -> str:
    devices = [path for path in visible if path.startswith("/dev/")]
    return f"abi{landlock.restrict([path for path in visible if path not in devices], devices)}"


def _filter_calls(deny_writing: bool) -> str:
    arch = platform.machine()
    if arch not in seccomp.AUDIT_ARCH:
        raise OSError(errno.ENOSYS, f"there is no filter for {arch}")
    seccomp.install(seccomp.server_filter(arch, deny_writing=deny_writing))
    return arch


class _AllowedPackages:
    """A finder of third-party packages by name, so that their siblings in site-packages stay out of reach."""

    def __init__(self, paths: dict[str, str]):
        self._paths = paths

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> "importlib.machinery.ModuleSpec | None":
        folder = self._paths.get(name)
        if folder is None:
            return None
        return importlib.util.spec_from_file_location(
            name, os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
        )


def _import_allowed(packages: dict[str, str], preload: list[str]) -> None:
    sys.meta_path.append(_AllowedPackages(packages))  # type: ignore[arg-type]
    # The folder of this package, which the bare interpreter needed to find it.
    sys.path.remove(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    sys.argv = sys.orig_argv = [harness.FILENAME]
    for name in preload:
        importlib.import_module(name)


def _serve(control: socket.socket, *, confined: bool) -> NoReturn:
    while True:
        message, descriptors, flags, _ = socket.recv_fds(control, _MAX_HEADER, 16)
        if not message:
            os._exit(0)
        if message == b"kill":
            continue  # crossed with our answer
        # Otherwise a program finds its test and its verdict in /proc/PID/fd of this process and of its siblings, for
        # Landlock lets memory files pass. Not before the first request: the pool reads this process's /proc/PID/ns.
        check(LIBC.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl")
        try:
            if flags & socket.MSG_CTRUNC:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            reply = _run(control, json.loads(message), descriptors, confined)
        except OSError as error:
            reply = {"fault": f"fork server: {error.strerror}"}
        for descriptor in descriptors:
            os.close(descriptor)
        control.send(json.dumps(reply).encode())


def _run(control: socket.socket, request: dict[str, Any], descriptors: list[int], confined: bool) -> dict[str, Any]:
    child = _Child(control, request, confined)
    if request["kind"] != "assert":
        pids = [child.fork(descriptors[1:5], descriptors[0], None)]
    else:
        program, test, verdict = descriptors[0], descriptors[5], descriptors[6]
        ours, theirs = socket.socketpair()
        # The program must not find the test's prints either.
        pids = [child.fork([test, _DEV_NULL, _DEV_NULL, verdict], test, ours)]
        try:
            pids.append(child.fork(descriptors[1:5], program, theirs))
        except OSError:
            os.kill(pids[0], signal.SIGKILL)
            os.waitpid(pids[0], 0)
            raise
        finally:
            ours.close()
            theirs.close()
    return _supervise(control, pids)


def _supervise(control: socket.socket, pids: list[int]) -> dict[str, Any]:
    """Wait for the first child and return how all ended; the others get a moment to flush.

    A message, the socket's end, and more threads than a program may have kill all children.
    """
    exits: dict[int, dict[str, Any]] = {}
    crowded = False
    alive = {os.pidfd_open(pid): pid for pid in pids}
    poll = select.poll()
    for descriptor in (control.fileno(), *alive):
        poll.register(descriptor, select.POLLIN)
    deadline = None
    while alive:
        ready = poll.poll(_WATCH_SECONDS * 1000)
        if not crowded and any(_threads(pid) > _MAX_THREADS for pid in alive.values()):
            crowded = True
            _kill(alive)
        if not ready and deadline is not None and time.monotonic() > deadline:
            _kill(alive)
            deadline = None
        for descriptor, _ in ready:
            if descriptor == control.fileno():
                _kill(alive)
                if not control.recv(16):
                    os._exit(0)
            else:
                pid = alive.pop(descriptor)
                poll.unregister(descriptor)
                os.close(descriptor)
                _, status, usage = os.wait4(pid, 0)
                exits[pid] = {"status": status, "cpu": usage.ru_utime + usage.ru_stime, "rss": usage.ru_maxrss * 1024}
                if pid == pids[0]:
                    deadline = time.monotonic() + _FLUSH_SECONDS
    return {"exits": [exits[pid] for pid in pids], "crowded": crowded}


def _threads(pid: int) -> int:
    """Count a process's threads: the folders in its folder `task`, which Landlock does not hide.

    Without a /proc in the jail only the address space bounds them.
    """
    try:
        return os.stat(f"/proc/{pid}/task").st_nlink - 2
    except OSError:
        return 0


def _kill(alive: dict[int, int]) -> None:
    for pid in alive.values():
        os.kill(pid, signal.SIGKILL)


class _Child:
    """A fork that becomes a confined run."""

    def __init__(self, control: socket.socket, request: dict[str, Any], confined: bool):
        self._control, self._request, self._confined = control, request, confined

    def fork(self, standard: list[int], text: int, channel: "socket.socket | None") -> int:
        """Fork; the child gets `standard` as descriptors 0-3 and runs what `text` and the request say."""
        server = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        try:
            self._become(server, standard, text, channel)
        finally:
            # Whatever a program did to the functions above, this process must never return to the server's loop.
            while True:
                harness._exit(70)

    def _become(self, server: int, standard: list[int], text: int, channel: "socket.socket | None") -> None:
        LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != server:
            return
        os.setsid()
        self._control.send(b"start")
        driving = channel is not None and text == standard[0]
        source = harness.read_all(text)
        channel = self._arrange(standard, channel)
        harness.open_standard_streams()
        self._limit(factor=2 if driving else 1)
        if self._confined:
            seccomp.install(seccomp.program_filter(platform.machine(), os.getpid()))
        self._start(source, channel, driving)

    def _arrange(self, standard: list[int], channel: "socket.socket | None") -> "socket.socket | None":
        """Leave open descriptors 0-3 and, for assertion tests, the channel as 4."""
        wanted = standard + ([channel.detach()] if channel else [])
        self._control.detach()
        high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, _HIGHEST // 2) for descriptor in wanted]
        for target, descriptor in enumerate(high):
            os.dup2(descriptor, target)
        os.closerange(len(wanted), _HIGHEST)
        return socket.socket(fileno=4) if channel else None

    def _limit(self, factor: int) -> None:
        request = self._request
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        for kind, soft, hard in (
            (resource.RLIMIT_CPU, request["cpu"] * factor, request["cpu"] * factor + 1),
            (resource.RLIMIT_AS, request["memory"], request["memory"]),
            (resource.RLIMIT_FSIZE, request["file_size"], request["file_size"]),
            (resource.RLIMIT_NOFILE, _OPEN_FILES, _OPEN_FILES),
            # Both are counted for all processes of the user: timers and queued signals, locked memory.
            (resource.RLIMIT_SIGPENDING, _OPEN_FILES, _OPEN_FILES),
            (resource.RLIMIT_MEMLOCK, 0, 0),
        ):
            resource.setrlimit(kind, (soft, hard))

    def _start(self, source: str, channel: "socket.socket | None", driving: bool) -> None:
        request = self._request
        if channel and driving:
            test = json.loads(source)
            assertion.run_test(test["context"], test["test"], request["fn_name"], channel)
        elif channel:
            assertion.serve_program(source, channel)
        elif request["mode"] == "lcb-official":
            lcb.run(source, json.loads(harness.read_input()), request["fn_name"], request["alarm"])
        elif request["kind"] == "functional":
            harness.run_function(source, request["fn_name"])
        else:
            harness.run_script(source)
