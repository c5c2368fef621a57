"""Private namespaces: user, mount, network, IPC, hostname and processes."""

import contextlib
import os
import signal

from .libc import LIBC, check, syscall

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = (
    0x00020000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000
_MNT_DETACH = 2
_PR_SET_PDEATHSIG = 1
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
# Needed no more once the identity maps are written, and always there to be mounted over.
_STAGING = "/proc"


def enter(visible: list[str]) -> str:
    """Go on as process 1 of namespaces of its own, whose root directory holds only `visible`.

    The calling process stays behind to wait and never returns; the function returns in its child. Raises OSError
    where the kernel refuses; what was entered until then stays entered.
    """
    uid, gid = os.geteuid(), os.getegid()
    # Alone and first: where the identity maps are refused, the rest must not have been entered half.
    check(LIBC.unshare(_NEWUSER), "unshare")
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{uid} {uid} 1")
    _write("/proc/self/gid_map", f"{gid} {gid} 1")
    check(LIBC.unshare(_NEWNS | _NEWNET | _NEWIPC | _NEWUTS | _NEWPID), "unshare")
    _become_process_one()
    _build_root(visible)
    return "own"


def _build_root(visible: list[str]) -> None:
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", _STAGING, "tmpfs", 0)
    for path in visible:
        _show(path)
    _show_standard_streams()
    os.chdir(_STAGING)
    syscall("pivot_root", _PIVOT_ROOT[os.uname().machine], b".", b".")
    check(LIBC.umount2(b".", _MNT_DETACH), "umount2")
    os.chdir("/")


def _show(path: str) -> None:
    target = _STAGING + path
    if os.path.lexists(target) or not os.path.exists(path):
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), target)
        _show(os.path.realpath(path))
        return
    if os.path.isdir(path):
        os.mkdir(target)
    else:
        open(target, "w").close()
    _mount(path, target, None, _MS_BIND | _MS_REC)


def _show_standard_streams() -> None:
    """Make /dev/stdin, /dev/fd and their like; they need a /proc, which machines that mask theirs do not give."""
    os.mkdir(_STAGING + "/proc")
    with contextlib.suppress(OSError):
        _mount("proc", _STAGING + "/proc", "proc", 0)
    os.symlink("/proc/self/fd", f"{_STAGING}/dev/fd")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{number}", f"{_STAGING}/dev/{name}")


def _become_process_one() -> None:
    child = os.fork()
    if child == 0:
        # The kernel kills everything in a process namespace with its process 1, so nothing outlives the server.
        LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        return
    # Holds no socket: the server must see the trainer's end close.
    os.closerange(0, 256)
    os.waitpid(child, 0)
    os._exit(0)


def _mount(source: str, target: str, kind: "str | None", flags: int) -> None:
    result = LIBC.mount(source.encode(), target.encode(), kind.encode() if kind else None, flags, None)
    check(result, f"mount {target}")


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
