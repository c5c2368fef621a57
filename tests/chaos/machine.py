"""What the harness does to the machine: processes below this one, and small disks that nobody else sees."""

import contextlib
import ctypes
import functools
import os
import signal
import subprocess
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWNS = 0x00020000
KIB = 1024


def adopt_orphans() -> None:
    """Let every process that a run leaves behind become a child of this one, so that none is overlooked."""
    assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def descendants() -> dict[int, str]:
    """The living processes below this one: pid to command line (of Ray's workers, their title)."""
    parents, titles = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                pid = int(folder.name)
                parents[pid] = int(parent)
                titles[pid] = (folder / "cmdline").read_text().replace("\0", " ").strip()
    found = {}
    for pid in parents:
        ancestor = pid
        while ancestor in parents and ancestor != os.getpid():
            ancestor = parents[ancestor]
        if ancestor == os.getpid() and pid != os.getpid():
            found[pid] = titles[pid]
    return found


def reap() -> None:
    """Bury the dead orphans. Children of `subprocess` are left to it."""
    for folder in Path(f"/proc/{os.getpid()}/task/{os.getpid()}").glob("children"):
        for pid in map(int, folder.read_text().split()):
            with contextlib.suppress(OSError):
                os.waitpid(pid, os.WNOHANG)


def left(seconds: float) -> dict[int, str]:
    """What still lives after at most so many seconds."""
    deadline = time.monotonic() + seconds
    while (living := descendants()) and time.monotonic() < deadline:
        reap()
        time.sleep(0.2)
    return living


def kill_all() -> None:
    """Whatever is left below this process."""
    while living := descendants():
        for pid in living:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        reap()
        time.sleep(0.1)


@functools.cache
def has_own_mounts() -> bool:
    """Give this process and its children mounts of their own, once. False where that is not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() != 0 or libc.unshare(CLONE_NEWNS) != 0:
        return False
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    return True


class SmallDisk:
    """A file system in memory at `path`, which can be made full to the byte (pages of 4 KiB)."""

    def __init__(self, path: Path, size: int = 2 << 30):
        self.path, self.size = path, size
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "chaos", path], check=True)

    @property
    def used(self) -> int:
        """Bytes."""
        disk = os.statvfs(self.path)
        return (disk.f_blocks - disk.f_bfree) * disk.f_frsize

    def leave(self, room: int) -> None:
        """Let the disk hold no more than `room` bytes beyond what it holds."""
        for _ in range(50):
            size = max(self.used + room, 4 * KIB)
            if subprocess.run(["mount", "-o", f"remount,size={size}", self.path], capture_output=True).returncode == 0:
                return
            # Something was written in between.
            time.sleep(0.01)
        raise RuntimeError(f"{self.path} could not be made full.")

    def mend(self) -> None:
        subprocess.run(["mount", "-o", f"remount,size={self.size}", self.path], check=True)

    def end(self) -> None:
        subprocess.run(["umount", "--lazy", self.path], check=True)
