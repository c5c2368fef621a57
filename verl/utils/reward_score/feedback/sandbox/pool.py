"""Fork servers shared by the threads of a process, and cores shared by the processes of a node."""

import asyncio
import atexit
import hashlib
import logging
import os
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from cachetools import LRUCache

from verl.utils.reward_score.feedback.sandbox import remote
from verl.utils.reward_score.feedback.sandbox.api import (
    Job,
    Level,
    SandboxConfig,
    SandboxUnavailable,
    Status,
    TestOutcome,
)
from verl.utils.reward_score.feedback.sandbox.canaries import Machine, examine
from verl.utils.reward_score.feedback.sandbox.fork_server import PACKAGES, ForkServer, ServerFault
from verl.utils.reward_score.feedback.sandbox.runner import run_job
from verl.utils.reward_score.feedback.sandbox.slots import Slots

logger = logging.getLogger(__name__)

# Whatever a server's heap gathers over its forks ends with it.
_RUNS_PER_SERVER = 5000
_IDLE_SECONDS = 300.0
_CACHED_BYTES = 64 << 20
_REMOTE_WORKERS = 32

Outcomes = list[TestOutcome]


class Scheduler:
    """Run jobs on `workers` threads, equal jobs once. A job that has not started at its deadline is a SANDBOX_ERROR.

    Outcomes are kept as the pickle of our own decoded data: its length is their size, however large the values are, and
    every caller gets a copy of its own.
    """

    def __init__(self, work: Callable[[Job], Outcomes], *, workers: int, deadline: float):
        self._work, self._deadline = work, deadline
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="sandbox")
        self._lock = threading.Lock()
        # By digest: a job holds all of its tests, which are larger than what comes of them.
        self._running: dict[bytes, Future[bytes]] = {}
        self._finished: LRUCache[bytes, bytes] = LRUCache(_CACHED_BYTES, getsizeof=len)

    def submit(self, job: Job) -> "Future[bytes]":
        # Once, before the run: what judges it may take notes.
        key = hashlib.sha256(repr(job).encode(errors="surrogatepass")).digest()
        with self._lock:
            if (finished := self._finished.get(key)) is not None:
                future: Future[bytes] = Future()
                future.set_result(finished)
                return future
            if key not in self._running:
                self._running[key] = self._threads.submit(self._run, key, job, time.monotonic() + self._deadline)
            return self._running[key]

    def run(self, jobs: list[Job]) -> list[Outcomes]:
        return [pickle.loads(future.result()) for future in [self.submit(job) for job in jobs]]

    async def run_async(self, jobs: list[Job]) -> list[Outcomes]:
        # Shielded: another caller may be waiting for the same run.
        futures = [asyncio.shield(asyncio.wrap_future(self.submit(job))) for job in jobs]
        return [pickle.loads(outcomes) for outcomes in await asyncio.gather(*futures)]

    def end(self) -> None:
        self._threads.shutdown(cancel_futures=True)

    def _run(self, key: bytes, job: Job, deadline: float) -> bytes:
        outcomes, packed = [], b""
        try:
            if time.monotonic() > deadline:
                message = f"not started within sandbox.batch_deadline={self._deadline:g} s"
                return pickle.dumps([TestOutcome(Status.SANDBOX_ERROR, message=message)] * len(job.tests))
            outcomes = self._work(job)
            packed = pickle.dumps(outcomes)
            return packed
        finally:
            with self._lock:
                del self._running[key]
                if packed and len(packed) < _CACHED_BYTES // 64 and all(_is_the_programs(o, job) for o in outcomes):
                    self._finished[key] = packed


_REPEATABLE = (
    Status.OK, Status.TEST_FAILED, Status.RUNTIME_ERROR, Status.COMPILE_ERROR, Status.OUTPUT_LIMIT, Status.NOT_RUN,
)  # fmt: skip


# Raised for want of memory, threads or files of the machine; of a program's own doing they have names of their own
# (PermissionError, FileNotFoundError). TimeoutException is the wall-clock limit of `lcb-official`.
_MACHINES_EXCEPTIONS = ("MemoryError", "OSError", "BlockingIOError", "TimeoutException")


def _is_the_programs(outcome: TestOutcome, job: Job) -> bool:
    """Return whether the program did this, and not the machine: a full memory, a stopped process, a slow disk."""
    if outcome.status is Status.TIME_LIMIT:
        # All tests of an `lcb-official` job share one process and its CPU time.
        return job.mode == "script" and outcome.cpu_seconds > job.time_limit
    no_thread = outcome.message == "can't start new thread"
    return outcome.status in _REPEATABLE and outcome.exception not in _MACHINES_EXCEPTIONS and not no_thread


class Pool:
    """Local fork servers behind a Scheduler. Raises SandboxUnavailable where this machine does not confine enough."""

    def __init__(self, config: SandboxConfig):
        self._config = config
        self.workers = config.workers or default_workers()
        self.machine = _examined(config)
        print(self.machine.line(self.workers), flush=True)
        self.scheduler = Scheduler(self._work, workers=self.workers, deadline=config.batch_deadline)
        self._slots = Slots(self.workers)
        self._lock = threading.Lock()
        self._idle: list[tuple[float, bool, ForkServer]] = []

    def stamp(self) -> dict[str, int]:
        return {"sandbox_level": int(self.machine.level), "sandbox_insecure": int(self.machine.level < Level.L2)}

    def end(self) -> None:
        self.scheduler.end()
        with self._lock:
            for _, _, server in self._idle:
                server.end()
            self._idle.clear()

    def _work(self, job: Job) -> Outcomes:
        with self._slots.take():
            lease = _Lease(self, numpy=_wants_packages(job))
            try:
                return run_job(job, lease)
            finally:
                lease.give_back()

    def take(self, *, numpy: bool) -> ForkServer:
        """Return an idle server or a new one. Raises SandboxUnavailable if that is confined less than the first."""
        with self._lock:
            for index in range(len(self._idle) - 1, -1, -1):
                if self._idle[index][1] == numpy:
                    return self._idle.pop(index)[2]
        server = ForkServer(self.machine.layers, numpy=numpy)
        lost = {layer for layer, account in server.report.items() if account.startswith("no")} - {
            layer for layer, account in self.machine.report.items() if account.startswith("no")
        }
        if lost:
            accounts = {layer: server.report[layer] for layer in lost}
            server.end()
            raise SandboxUnavailable(f"The sandbox lost a layer since it started, and stops: {accounts}.")
        return server

    def give_back(self, server: ForkServer, *, numpy: bool) -> None:
        now = time.monotonic()
        with self._lock:
            self._idle.append((now, numpy, server))
            ended = [item for item in self._idle if now - item[0] > _IDLE_SECONDS or item[2].runs >= _RUNS_PER_SERVER]
            self._idle = [item for item in self._idle if item not in ended]
        for _, _, old in ended:
            old.end()


class RemotePool:
    """A SandboxFusion server behind a Scheduler. How well it confines programs is for whoever runs it to know."""

    def __init__(self, config: SandboxConfig):
        self.workers = config.workers or _REMOTE_WORKERS
        print(f"sandbox: remote={config.remote_url} workers={self.workers}", flush=True)
        work = partial(remote.run_job, config.remote_url)
        self.scheduler = Scheduler(work, workers=self.workers, deadline=config.batch_deadline)

    def stamp(self) -> dict[str, int]:
        return {"sandbox_level": -1, "sandbox_insecure": 0}

    def end(self) -> None:
        self.scheduler.end()


class _Lease:
    """The server of one running job."""

    def __init__(self, pool: Pool, *, numpy: bool):
        self._pool, self._numpy = pool, numpy
        self._server: ForkServer | None = None

    def server(self) -> ForkServer:
        if self._server is None:
            self._server = self._pool.take(numpy=self._numpy)
        return self._server

    def discard(self) -> None:
        if self._server is not None:
            self._server.end()
            self._server = None

    def give_back(self) -> None:
        if self._server is not None:
            self._pool.give_back(self._server, numpy=self._numpy)


def default_workers() -> int:
    """Return the number of usable cores; on machines with more than four, one stays with the trainer."""
    cores = len(os.sched_getaffinity(0))
    return cores - 1 if cores > 4 else cores


def _wants_packages(job: Job) -> bool:
    texts = [job.program, job.context] + ([test.text for test in job.tests] if job.kind == "assert" else [])
    return any(package in text for text in texts for package in PACKAGES)


def _examined(config: SandboxConfig) -> Machine:
    try:
        machine = examine(config)
    except (ServerFault, OSError) as error:
        raise SandboxUnavailable(f"The sandbox does not start on this machine: {error}") from None
    if machine.level >= config.min_level:
        if machine.level < Level.L2:
            logger.warning("sandbox.allow_insecure: programs run at level %s", machine.level.name)
        return machine
    if config.allow_insecure:
        logger.warning(
            "sandbox.allow_insecure: programs run at level %s, below sandbox.min_level=%s:\n%s",
            machine.level.name, config.min_level.name, machine.shortcomings(config.min_level),
        )  # fmt: skip
        return machine
    raise SandboxUnavailable(
        f"This machine confines programs at level {machine.level.name}; "
        f"sandbox.min_level={config.min_level.name} is required.\n{machine.shortcomings(config.min_level)}\n"
        "Change the machine, use a remote sandbox (sandbox.remote_url), or accept that model-written programs can "
        "reach what the level leaves open (sandbox.allow_insecure=true)."
    )


_config: "SandboxConfig | None" = None
_pool: "Pool | RemotePool | None" = None
_pool_lock = threading.Lock()


def configure(config: SandboxConfig) -> None:
    global _config, _pool
    with _pool_lock:
        _config = config
        if _pool is not None:
            _pool.end()
            _pool = None


def shared() -> "Pool | RemotePool":
    """Return this process's pool, started at the first call."""
    global _pool
    with _pool_lock:
        if _pool is None:
            config = _config or SandboxConfig.from_env()
            _pool = RemotePool(config) if config.remote_url else Pool(config)
        return _pool


def _end() -> None:
    if _pool is not None:
        _pool.end()


def _forget() -> None:
    """Forget the parent's pool in a forked process, which must start servers of its own."""
    global _pool, _pool_lock
    _pool, _pool_lock = None, threading.Lock()


atexit.register(_end)
os.register_at_fork(after_in_child=_forget)
