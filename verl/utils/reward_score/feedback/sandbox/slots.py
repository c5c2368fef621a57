"""Limits how many programs run at once on this node, over all processes that share the sandbox."""

import fcntl
import os
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.02


class Slots:
    """`count` locks in a folder of the user's. The kernel frees a dead process's locks, so none is ever lost."""

    def __init__(self, count: int):
        self._folder = _folder()
        self._count = count
        # One thread of a process looks for a slot at a time: the others would only compete with it.
        self._looking = threading.Lock()

    @contextmanager
    def take(self) -> Iterator[None]:
        """Waits for a slot and holds it."""
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
        for number in random.sample(range(self._count), self._count):
            descriptor = os.open(f"{self._folder}/slot-{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return descriptor
            except BlockingIOError:
                os.close(descriptor)
        return None


def _folder() -> str:
    folder = os.path.join(tempfile.gettempdir(), f"sdpo-sandbox-{os.geteuid()}")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    owner = os.lstat(folder).st_uid
    if owner != os.geteuid():
        raise PermissionError(f"{folder} belongs to user {owner}; remove it, or set TMPDIR to a folder of your own.")
    return folder
