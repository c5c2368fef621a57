"""The data that a grader hands to the sandbox and gets back: plain and frozen, without behaviour.

Expected outputs never appear here. The sandbox runs programs and reports what they did; judging that is the grader's
work, in its own process.
"""

import enum
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

MIB = 1 << 20


class Level(enum.IntEnum):
    """The part of the machine that a program can touch; each level includes the ones below it."""

    L0 = 0
    """Fresh process, limits, clean environment: stops accidents, not intent."""
    L1 = 1
    """seccomp: no network, no new processes, no signals, no writes. Files can be read."""
    L2 = 2
    """Landlock: nothing can be read but the Python installation."""
    L3 = 3
    """Namespaces: other processes and the rest of the file system do not exist."""


class Status(enum.Enum):
    """The end of one run of a program on one test. Only `OK` has an answer to compare (`assert`: is one)."""

    OK = "ok"
    COMPILE_ERROR = "compile_error"
    RUNTIME_ERROR = "runtime_error"
    TEST_FAILED = "test_failed"
    """`assert` jobs: the test's own source raised, as a failed assertion does; the program itself ran well."""
    TIME_LIMIT = "time_limit"
    MEMORY_LIMIT = "memory_limit"
    OUTPUT_LIMIT = "output_limit"
    KILLED = "killed"
    """Died by a signal that is none of the limits' (segfault, abort, a signal to itself); see `TestOutcome.signal`."""
    NOT_RUN = "not_run"
    """An earlier test of the job ended it."""
    SANDBOX_ERROR = "sandbox_error"
    """The sandbox failed, twice. Says nothing about the program; `TestOutcome.message` says what happened."""


class SandboxUnavailable(RuntimeError):
    """This machine cannot confine programs as far as the configuration asks; the message names reason and fix."""


@dataclass(frozen=True)
class Opaque:
    """A returned value that is not built of plain Python data. Equals nothing but an identical record.

    `content` is the nested list of a numpy array of at most 10 000 elements, and None for everything else.
    """

    type_name: str
    content: Any = None


@dataclass(frozen=True)
class TestInput:
    """One test's input.

    text: by kind of job: `stdin` - what the program reads; `functional` - JSON, a list of positional or an object of
        keyword arguments; `assert` - the test's source.
    output_limit: bytes of stdout (or of the encoded result) that a correct answer can need. The sandbox rounds it up
        to a power of two of at least 1 MiB, so that the limit says nothing to the program about the answer's length.
    """

    __test__ = False  # not a pytest class
    text: str
    output_limit: int = MIB


@dataclass(frozen=True)
class Job:
    """One program and its tests, run in order, each in a fresh process (`mode="lcb-official"`: all in one process).

    kind:
        `stdin`: the program is a script that reads fd 0 and writes fd 1.
        `functional`: `fn_name`, a top-level function or a method of `class Solution`, is called.
        `assert`: `context` and the test's source run in a process of their own. There `fn_name`, and every name that
            neither they nor Python define, stand for the program's objects, reached by remote call; arguments and
            results travel as plain data. `OK` means that the test's source ran to its end. The program sees the
            arguments of each call, never the test.
    mode: `script` is ordinary Python with the LiveCodeBench imports at hand. `lcb-official` repeats
        LiveCodeBench's own runner (one process for all tests, wrapped program, mocked stdin, wall-clock alarm).
    context: trusted source that runs before each test of an `assert` job.
    time_limit: seconds of CPU per test (`lcb-official`: wall-clock). memory_limit: bytes of address space.
    stop_after_timeout: the first TIME_LIMIT or MEMORY_LIMIT ends the job; the tests after it are NOT_RUN.
    stop_when: called in the grader's process as `stop_when(index, outcome)` after each test; True ends the job.
        Jobs with the same `repr` are run once, so let it be a frozen dataclass with `__call__`, and no closure.
    """

    program: str
    kind: Literal["stdin", "functional", "assert"]
    tests: tuple[TestInput, ...]
    fn_name: str | None = None
    context: str = ""
    mode: Literal["script", "lcb-official"] = "script"
    time_limit: float = 6.0
    memory_limit: int = 4096 * MIB
    stop_after_timeout: bool = True
    stop_when: "Callable[[int, TestOutcome], bool] | None" = None

    def __post_init__(self) -> None:
        if not self.tests:
            raise ValueError("Job.tests is empty: a program without tests cannot be graded.")
        if self.kind != "stdin" and self.kind != "assert" and not self.fn_name:
            raise ValueError(f"Job.kind={self.kind!r} needs Job.fn_name, the function to call.")
        if self.kind == "assert" and self.mode != "script":
            raise ValueError(f"Job.kind='assert' runs in mode 'script' only, got mode={self.mode!r}.")
        if self.time_limit <= 0 or self.memory_limit < 64 * MIB:
            raise ValueError(
                f"Job limits too small: time_limit={self.time_limit} s (must be > 0), "
                f"memory_limit={self.memory_limit} bytes (at least {64 * MIB}; Python itself needs that)."
            )


@dataclass(frozen=True)
class Frame:
    """One line of the program in a traceback, outermost first; `line` counts from 1 in `Job.program`."""

    line: int
    function: str


@dataclass(frozen=True)
class TestOutcome:
    """The record of one run. Everything except `status`, `seconds` and `cpu_seconds` was written by the program: don't
    trust it, judge it.

    stdout, stderr: decoded as UTF-8 with lone surrogates kept (`surrogatepass`, else replacement characters);
        stderr is cut to 64 KiB.
    result: what a functional test returned (built of None, bool, int, float, complex, Fraction, Decimal, str, bytes,
        list, tuple, dict, set, frozenset and Opaque; exact types, so comparing is safe). `returned` distinguishes
        None from nothing.
    exception, message, frames: the uncaught exception's type name and text, and the program's own frames. For
        TEST_FAILED `message` is the exception's text or else the failing line of the test.
    last_call: `assert` jobs: the last call the test made, as Python source ("f(1, 2)"); `result` is what it returned.
    """

    __test__ = False
    status: Status
    stdout: str = ""
    stderr: str = ""
    result: Any = None
    returned: bool = False
    exception: str = ""
    message: str = ""
    frames: tuple[Frame, ...] = ()
    last_call: str = ""
    exit_code: int | None = None
    signal: int | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0


@dataclass(frozen=True)
class SandboxConfig:
    """The confinement of programs. Read from the environment by `from_env`; every field has a variable.

    min_level: refuse to start below it (SDPO_SANDBOX_MIN_LEVEL).
    allow_insecure: permit levels below L2, and mark every result with it (SDPO_SANDBOX_ALLOW_INSECURE=1).
    max_level: leave out the layers above it; for tests and for finding faults (SDPO_SANDBOX_MAX_LEVEL).
    workers: programs running at once on this node, over all its processes; 0 = usable cores, less one on machines
        with more than four (SDPO_SANDBOX_WORKERS).
    batch_deadline: seconds after which `run` gives up on what has not started (SDPO_SANDBOX_BATCH_DEADLINE).
    remote_url: address of a SandboxFusion server's `run_code`; then nothing runs on this machine
        (SDPO_SANDBOX_REMOTE_URL).
    """

    min_level: Level = Level.L2
    allow_insecure: bool = False
    max_level: Level = Level.L3
    workers: int = 0
    batch_deadline: float = 1800.0
    remote_url: str = ""

    def __post_init__(self) -> None:
        if self.min_level < Level.L2 and not self.allow_insecure:
            raise ValueError(
                f"sandbox.min_level={self.min_level.name} lets programs read this machine's files; "
                "levels below L2 need sandbox.allow_insecure=true as well."
            )
        if self.workers < 0 or self.batch_deadline <= 0:
            raise ValueError(
                f"sandbox.workers={self.workers} and batch_deadline={self.batch_deadline} must be positive."
            )

    @classmethod
    def from_env(cls) -> "SandboxConfig":
        """Read the SDPO_SANDBOX_* variables; raise ValueError naming one that cannot be read."""
        readers: dict[str, Callable[[str], Any]] = {
            "min_level": lambda text: Level[text.upper()],
            "allow_insecure": lambda text: {"1": True, "true": True, "0": False, "false": False}[text.lower()],
            "max_level": lambda text: Level[text.upper()],
            "workers": int,
            "batch_deadline": float,
            "remote_url": str,
        }
        fields = {}
        for name, read in readers.items():
            variable = f"SDPO_SANDBOX_{name.upper()}"
            text = os.environ.get(variable, "")
            if not text:
                continue
            try:
                fields[name] = read(text)
            except (KeyError, ValueError):
                raise ValueError(f"{variable}={text!r} is not a value of sandbox.{name}.") from None
        return cls(**fields)
