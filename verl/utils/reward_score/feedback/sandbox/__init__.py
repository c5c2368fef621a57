"""Run model-written programs so that they can neither harm the machine nor learn or forge their verdict.

    outcomes = sandbox.run([Job(program, "stdin", (TestInput("1 2\\n"),))])   # or: await sandbox.run_async(jobs)
    outcomes[0][0].status, outcomes[0][0].stdout

`python -m verl.utils.reward_score.feedback.sandbox` reports how far the present machine can confine programs.
"""

import asyncio

from verl.utils.reward_score.feedback.sandbox import pool
from verl.utils.reward_score.feedback.sandbox.api import (
    Frame,
    Job,
    Level,
    Opaque,
    SandboxConfig,
    SandboxUnavailable,
    Status,
    TestInput,
    TestOutcome,
)

__all__ = [
    "Frame",
    "Job",
    "Level",
    "Opaque",
    "SandboxConfig",
    "SandboxUnavailable",
    "Status",
    "TestInput",
    "TestOutcome",
    "configure",
    "level",
    "run",
    "run_async",
]


def configure(config: SandboxConfig) -> None:
    """Set this process's configuration (default: `SandboxConfig.from_env()`); end a pool that is running."""
    pool.configure(config)


def run(jobs: list[Job]) -> list[list[TestOutcome]]:
    """Run jobs and return, in their order, one outcome per test. Thread-safe; blocks.

    Raises SandboxUnavailable when the machine cannot confine programs as configured.
    """
    return pool.shared().scheduler.run(jobs)


async def run_async(jobs: list[Job]) -> list[list[TestOutcome]]:
    """Run jobs from a coroutine; the event loop stays free."""
    # Starting a pool takes a moment and must not hold up the loop.
    started = await asyncio.to_thread(pool.shared)
    return await started.scheduler.run_async(jobs)


def level() -> dict[str, int]:
    """Return the fields for the metrics: {"sandbox_level": 0-3, "sandbox_insecure": 0 or 1}. Starts the pool if needed.

    A remote sandbox has level -1: its server decides.
    """
    return pool.shared().stamp()
