"""The most resident memory of a process while something runs."""

import threading

import psutil

MIB = 2**20


class PeakMemory:
    """The most resident memory of this process beyond what it had at the start, in bytes."""

    def __enter__(self) -> "PeakMemory":
        self.start = self.peak = resident_bytes()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._sample, daemon=True)
        self.thread.start()
        return self

    def _sample(self) -> None:
        while not self.done.wait(0.001):
            self.peak = max(self.peak, resident_bytes())

    def __exit__(self, *_exception) -> None:
        self.done.set()
        self.thread.join()

    @property
    def bytes(self) -> int:
        return self.peak - self.start


def resident_bytes() -> int:
    return psutil.Process().memory_info().rss
