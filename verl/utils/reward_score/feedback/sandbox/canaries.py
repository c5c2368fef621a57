"""Measure what a program in the jail can really do here. Behaviour decides the level, not what the layers claim."""

import json
import os
import platform
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl.utils.reward_score.feedback.sandbox.api import Job, Level, SandboxConfig, Status, TestInput
from verl.utils.reward_score.feedback.sandbox.fork_server import ForkServer, Layers, ServerFault
from verl.utils.reward_score.feedback.sandbox.runner import run_job

_ACTIONS = "tcp unix abstract signal memory write write_tmp write_shm chmod memfd fork exec"
_CANARIES = {
    Level.L1: _ACTIONS.split(),
    Level.L2: ["read", "environ", "list_home"],
    Level.L3: ["see_file", "same_pid", "same_net", "same_ipc", "same_mnt"],
}
_FIXES = {
    "seccomp": "a kernel with CONFIG_SECCOMP_FILTER, on x86_64 or aarch64",
    "landlock": "Linux 5.13 or later with landlock among the security modules (boot parameter lsm=)",
    "namespaces": "sysctl user.max_user_namespaces above 0 (on Ubuntu also "
    "kernel.apparmor_restrict_unprivileged_userns=0), or the program bubblewrap (bwrap) installed",
}
_NEEDS = {Level.L1: ("seccomp",), Level.L2: ("seccomp", "landlock"), Level.L3: ("seccomp", "landlock", "namespaces")}

# Each attempt ends in an exception where the jail holds. `exec` comes last: if it works, nothing after it would run.
_PROGRAM = """
import ctypes, json, os, socket
target = json.loads(input())

def connect(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(2)
        client.connect(address)

def connect_to_file():
    os.chdir(target["folder"])
    connect(socket.AF_UNIX, "socket")

def read_memory():
    buffer = ctypes.create_string_buffer(8)
    vector = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 8)
    theirs = (ctypes.c_void_p * 2)(target["address"], 8)
    if ctypes.CDLL(None).process_vm_readv(target["pid"], vector, 1, theirs, 1, 0) != 8:
        raise OSError

def write(path):
    with open(path, "w"):
        pass
    os.unlink(path)

def fork():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)

attempts = {
    "tcp": lambda: connect(socket.AF_INET, ("127.0.0.1", target["port"])),
    "unix": connect_to_file,
    "abstract": lambda: connect(socket.AF_UNIX, "\\0" + target["abstract"]),
    "signal": lambda: os.kill(target["pid"], 0),
    "memory": read_memory,
    "write": lambda: write(target["folder"] + "/new"),
    "write_tmp": lambda: write("/tmp/new-" + target["abstract"]),
    "write_shm": lambda: write("/dev/shm/" + target["abstract"]),
    "chmod": lambda: os.chmod(target["folder"] + "/secret", 0o600),
    "memfd": lambda: os.memfd_create("canary"),
    "fork": fork,
    "read": lambda: open(target["folder"] + "/secret").read(),
    "environ": lambda: open(f"/proc/{target['pid']}/environ").read(),
    "list_home": lambda: os.listdir(target["home"]),
    "see_file": lambda: os.stat(target["folder"] + "/secret"),
}
done = {"exec": True}
for name, attempt in attempts.items():
    try:
        attempt()
        done[name] = True
    except OSError:
        done[name] = False
print(json.dumps(done), flush=True)
try:
    os.execv("/bin/true", ["true"])
except OSError:
    print(json.dumps(done | {"exec": False}))
"""


@dataclass(frozen=True)
class Machine:
    """This machine's abilities. escaped: canaries that got through; report: each layer's own account."""

    level: Level
    layers: Layers
    report: dict[str, str]
    escaped: tuple[str, ...]

    def line(self, workers: int) -> str:
        """Return the one line that a start prints."""
        total = sum(map(len, _CANARIES.values()))
        layers = " ".join(f"{layer}={account}" for layer, account in self.report.items())
        escaped = f" escaped={','.join(self.escaped)}" if self.escaped else ""
        return (
            f"sandbox: level={self.level.name} {layers} canaries={total - len(self.escaped)}/{total}{escaped} "
            f"workers={workers} python={platform.python_version()} arch={platform.machine()} hashseed=0"
        )

    def shortcomings(self, wanted: Level) -> str:
        """Return the reasons why this machine does not reach `wanted` and their remedies, one line per layer."""
        lines = []
        for layer in _NEEDS[wanted]:
            account = self.report.get(layer, "no (the fork server did not start)")
            if account.startswith(("off", "no")):
                lines.append(f"  {layer}: {account}; needs {_FIXES[layer]}")
        leaks = [
            name for level in Level if level <= wanted for name in _CANARIES.get(level, []) if name in self.escaped
        ]
        if leaks and not lines:
            lines.append(f"  the layers are there, yet these canaries got through: {', '.join(leaks)}")
        return "\n".join(lines)


def examine(config: SandboxConfig) -> Machine:
    """Start fork servers with canaries inside and return the best that held, at most `config.max_level`.

    Raises ServerFault where no fork server starts at all.
    """
    wanted = Layers.up_to(config.max_level)
    machine = _examine(wanted)
    if wanted.namespaces and machine.level < Level.L3 and shutil.which("bwrap"):
        try:
            wrapped = _examine(Layers(bubblewrap=True))
        except ServerFault:
            return machine
        if wrapped.level > machine.level:
            return wrapped
    return machine


def _examine(layers: Layers) -> Machine:
    server = ForkServer(layers)
    try:
        with _targets() as target:
            # First: the server hides from /proc once it runs programs.
            escaped = _shared_namespaces(server.pid) | _release(server, target)
        report = server.report | ({"namespaces": "bubblewrap"} if layers.bubblewrap else {})
    finally:
        server.end()
    level = Level.L0
    for higher, names in _CANARIES.items():
        if escaped & set(names):
            break
        level = higher
    order = [name for names in _CANARIES.values() for name in names if name in escaped]
    return Machine(level, layers, report, tuple(order))


def _release(server: ForkServer, target: dict[str, Any]) -> set[str]:
    job = Job(_PROGRAM, "stdin", (TestInput(json.dumps(target) + "\n"),))
    outcome = run_job(job, _OneServer(server))[0]
    if outcome.status is Status.SANDBOX_ERROR:
        raise ServerFault(outcome.message)
    lines = outcome.stdout.splitlines()
    if not lines:
        raise ServerFault(f"the canaries did not report: {outcome}")
    return {name for name, through in json.loads(lines[-1]).items() if through}


class _OneServer:
    def __init__(self, server: ForkServer):
        self._server = server

    def server(self) -> ForkServer:
        return self._server

    def discard(self) -> None:
        pass


def _shared_namespaces(pid: int) -> set[str]:
    shared = set()
    for kind in ("pid", "net", "ipc", "mnt"):
        try:
            if os.readlink(f"/proc/{pid}/ns/{kind}") == os.readlink(f"/proc/self/ns/{kind}"):
                shared.add(f"same_{kind}")
        except OSError:
            shared.add(f"same_{kind}")
    return shared


@contextmanager
def _targets() -> Iterator[dict[str, Any]]:
    """Provide things of the trainer's that a program must not reach."""
    import ctypes

    with tempfile.TemporaryDirectory(prefix="sdpo-canary-") as folder, ExitStack() as stack:
        Path(folder, "secret").write_text("secret")
        abstract = os.path.basename(folder)
        # A socket's address has 107 bytes, and the folder for temporary files may have a longer name: the address goes
        # by the folder's descriptor here, and by the program's working directory there.
        directory = os.open(folder, os.O_PATH | os.O_DIRECTORY)
        stack.callback(os.close, directory)
        listeners: list[tuple[int, Any]] = [
            (socket.AF_INET, ("127.0.0.1", 0)),
            (socket.AF_UNIX, f"/proc/self/fd/{directory}/socket"),
            (socket.AF_UNIX, f"\0{abstract}"),
        ]
        ports = []
        for family, address in listeners:
            listener = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listener.bind(address)
            listener.listen()
            ports.append(listener.getsockname())
        memory = ctypes.create_string_buffer(8)
        yield {
            "port": ports[0][1],
            "folder": folder,
            "abstract": abstract,
            "pid": os.getpid(),
            "address": ctypes.addressof(memory),
            "home": os.path.expanduser("~"),
        }
