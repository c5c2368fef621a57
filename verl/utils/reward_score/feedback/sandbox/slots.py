"""A limit on how many programs run at once on this node, over all processes that share the sandbox."""

import contextlib
import fcntl
import os
import random
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.02


class Slots:
    """`count` locks in a folder of the user's. The kernel frees a dead process's locks, so none is ever lost."""

    def __init__(self, count: int):
        self._count = count
        os.close(_folder())
        # One thread of a process looks for a slot at a time: the others would only compete with it.
        self._looking = threading.Lock()

    @contextmanager
    def take(self) -> Iterator[None]:
        """Wait for a slot and hold it."""
        with self._looking:
            descriptor = self._wait()
        try:
            yield
        finally:
            os.close(descriptor)

    def _wait(self) -> int:
        pause = _FIRST_PAUSE
        while (descriptor := self._try()) is None:
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        return descriptor

    def _try(self) -> "int | None":
        # Each time, for a long run outlives what cleans up old temporary files.
        folder = _folder()
        try:
            for number in random.sample(range(self._count), self._count):
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
                descriptor = os.open(f"slot-{number}", flags, 0o600, dir_fd=folder)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return descriptor
                except BlockingIOError:
                    os.close(descriptor)
            return None
        finally:
            os.close(folder)


def _folder() -> int:
    """Open the folder of this user's slots, made if needed.

    Raises PermissionError unless it is a folder of ours that nobody else can enter: its name is known to everybody.
    """
    path = os.path.join(tempfile.gettempdir(), f"sdpo-sandbox-{os.geteuid()}")
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, mode=0o700)
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise PermissionError(f"{path} is no folder ({error.strerror}); {_ADVICE}") from None
    status = os.fstat(folder)
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        os.close(folder)
        raise PermissionError(
            f"{path} belongs to user {status.st_uid} and has mode {stat.S_IMODE(status.st_mode):o}, expected user "
            f"{os.geteuid()} and 700; {_ADVICE}"
        )
    return folder


_ADVICE = "remove it, or set TMPDIR to a folder of your own."
