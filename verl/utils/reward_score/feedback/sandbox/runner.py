"""Run the tests of one job on a fork server and read off what happened, from bytes and exit statuses alone."""

import json
import math
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from verl.utils.reward_score.feedback.sandbox.api import MIB, Frame, Job, Opaque, Status, TestInput, TestOutcome
from verl.utils.reward_score.feedback.sandbox.fork_server import Ended, Exit, ForkServer, ServerFault
from verl.utils.reward_score.feedback.sandbox.jail import values

_STDERR_BYTES = 64 << 10
_MAX_RECORD = 256 * MIB
_MAX_ELEMENTS = 100_000
_MAX_MESSAGE = 2000
_MAX_LINE = 1 << 31
# The factor of the DMOJ judge, plus what a start can cost on a busy machine.
_WALL_FACTOR, _WALL_EXTRA = 3, 2
_OFFICIAL_EXTRA_PER_TEST, _OFFICIAL_EXTRA = 1, 5
_ATTEMPTS = 2
_ENDS_JOB = (Status.TIME_LIMIT, Status.MEMORY_LIMIT)


class Lease(Protocol):
    """The source of a job's fork servers; one that failed is discarded, and the next call gives another."""

    def server(self) -> ForkServer: ...

    def discard(self) -> None: ...


def run_job(job: Job, lease: Lease) -> list[TestOutcome]:
    """Return one outcome per test. Never raises for what the program or the server did."""
    if job.mode == "lcb-official":
        return _attempt(lease, partial(_run_official, job), len(job.tests))
    outcomes: list[TestOutcome] = []
    for index, test in enumerate(job.tests):
        outcomes += _attempt(lease, partial(_run_test, job, test), 1)
        if ends_job(job, index, outcomes[-1]):
            break
    return outcomes + [TestOutcome(Status.NOT_RUN)] * (len(job.tests) - len(outcomes))


def _attempt(lease: Lease, run: Callable[[ForkServer], list[TestOutcome]], count: int) -> list[TestOutcome]:
    message = ""
    for _ in range(_ATTEMPTS):
        try:
            return run(lease.server())
        except (ServerFault, OSError) as error:
            message = str(error)
            lease.discard()
    return [TestOutcome(Status.SANDBOX_ERROR, message=message)] * count


def ends_job(job: Job, index: int, outcome: TestOutcome) -> bool:
    if outcome.status is Status.COMPILE_ERROR or (job.stop_after_timeout and outcome.status in _ENDS_JOB):
        return True
    return job.stop_when is not None and job.stop_when(index, outcome)


def _run_test(job: Job, test: TestInput, server: ForkServer) -> list[TestOutcome]:
    limit = output_limit(test)
    with _files() as create:
        files = [create(job.program), create("" if job.kind == "assert" else test.text), *map(create, ("", "", ""))]
        if job.kind == "assert":
            files += [create(json.dumps({"context": job.context, "test": test.text})), create("")]
        ended = server.run(_request(job, limit), files, _WALL_FACTOR * job.time_limit + _WALL_EXTRA)
        outcome = _base(ended, files)
        record = _record(files[4], [test])
        if job.kind == "assert":
            return [_judge_assertion(job, ended, outcome, record, _record(files[6], [test]), limit)]
        return [_judge(job, ended, ended.exits[0], outcome, record, limit)]


def _run_official(job: Job, server: ForkServer) -> list[TestOutcome]:
    alarm, count = max(1, math.ceil(job.time_limit)), len(job.tests)
    seconds = (alarm + _OFFICIAL_EXTRA_PER_TEST) * count + _OFFICIAL_EXTRA
    limit = sum(map(output_limit, job.tests))
    with _files() as create:
        inputs = json.dumps([test.text for test in job.tests])
        files = [create(job.program), create(inputs), *map(create, ("", "", ""))]
        whole = replace(job, time_limit=seconds)
        ended = server.run(_request(whole, limit) | {"alarm": alarm}, files, seconds)
        outcome = _base(ended, files)
        record = _record(files[4], job.tests)
        verdict = _judge(whole, ended, ended.exits[0], outcome, record, limit)
    tests = record.get("tests")
    if verdict.status is not Status.OK or not isinstance(tests, list) or len(tests) > count:
        # Officially too, a process that dies takes every result with it.
        outcomes = [verdict if verdict.status is not Status.OK else replace(verdict, status=Status.RUNTIME_ERROR)]
    else:
        outcomes = [_judge_official(job, outcome, item) for item in tests]
    return outcomes + [TestOutcome(Status.NOT_RUN)] * (count - len(outcomes))


def output_limit(test: TestInput) -> int:
    """Return bytes, a power of two: the limit is visible to the program and must not reveal the answer's length."""
    return 1 << (max(test.output_limit, MIB) - 1).bit_length()


def _request(job: Job, limit: int) -> dict[str, Any]:
    return {
        "kind": job.kind,
        "mode": job.mode,
        "fn_name": job.fn_name,
        "cpu": math.ceil(job.time_limit),
        "memory": job.memory_limit,
        "file_size": limit,
    }


def _base(ended: Ended, files: list[int]) -> TestOutcome:
    return TestOutcome(
        Status.OK,
        stdout=_text(files[2], _MAX_RECORD),
        stderr=_text(files[3], _STDERR_BYTES),
        seconds=ended.seconds,
        cpu_seconds=max(item.cpu for item in ended.exits),
    )


def _judge(
    job: Job, ended: Ended, process: Exit, outcome: TestOutcome, record: dict[str, Any], limit: int
) -> TestOutcome:
    """Decide the status: limits first, then signals, then what the harness recorded."""
    number = os.WTERMSIG(process.status) if os.WIFSIGNALED(process.status) else None
    code = os.waitstatus_to_exitcode(process.status) if number is None else None
    outcome = replace(outcome, signal=number, exit_code=code, **exception_fields(record))
    if ended.crowded:
        return replace(outcome, status=Status.RUNTIME_ERROR, exception="RuntimeError", message="too many threads")
    if ended.out_of_time or number == signal.SIGXCPU or outcome.cpu_seconds > job.time_limit:
        return replace(outcome, status=Status.TIME_LIMIT)
    if number == signal.SIGXFSZ or _size(outcome) >= limit:
        return replace(outcome, status=Status.OUTPUT_LIMIT)
    if outcome.exception == "MemoryError" or (number == signal.SIGKILL and process.rss > job.memory_limit // 2):
        return replace(outcome, status=Status.MEMORY_LIMIT)
    if number is not None:
        return replace(outcome, status=Status.KILLED, message=f"killed by signal {number}")
    if record.get("stage") == "compile":
        return replace(outcome, status=Status.COMPILE_ERROR)
    if outcome.exception or code:
        return replace(outcome, status=Status.RUNTIME_ERROR)
    if job.kind == "functional" and job.mode == "script":
        return with_result(outcome, record)
    return outcome


def with_result(outcome: TestOutcome, record: dict[str, Any]) -> TestOutcome:
    """Add what a function returned; without a record of it the run failed."""
    if "value" not in record:
        message = f"exited with status {outcome.exit_code} before returning a value"
        return replace(outcome, status=Status.RUNTIME_ERROR, message=message)
    return replace(outcome, result=decoded(record["value"]), returned=True)


def _judge_assertion(
    job: Job, ended: Ended, outcome: TestOutcome, record: dict[str, Any], verdict: dict[str, Any], limit: int
) -> TestOutcome:
    """Decide by the driver's verdict; only where it lost the program does the program's own end say why."""
    driver, program = ended.exits
    if "fault" in verdict:
        raise ServerFault(f"the test cannot be run: {verdict['fault']}")
    judged = _judge(job, ended, program, outcome, record, limit)
    if ended.crowded or judged.status in (Status.TIME_LIMIT, Status.OUTPUT_LIMIT, Status.COMPILE_ERROR):
        return judged
    if os.WIFSIGNALED(driver.status):
        return replace(judged, status=Status.TIME_LIMIT)
    shown: dict[str, Any] = {"last_call": _string(verdict.get("call"), _MAX_MESSAGE)}
    if "value" in verdict:
        shown |= {"result": decoded(verdict["value"]), "returned": True}
    if verdict.get("passed") is True:
        return replace(outcome, **shown)
    if "failed" in verdict:
        failure = exception_fields(verdict["failed"]) | {"frames": ()}
        failure["message"] = failure.get("message") or _string(verdict["failed"].get("line"), _MAX_MESSAGE)
        return replace(outcome, status=Status.TEST_FAILED, **failure, **shown)
    if "raised" in verdict:
        failed = replace(outcome, status=Status.RUNTIME_ERROR, **exception_fields(verdict["raised"]), **shown)
        return replace(failed, status=Status.MEMORY_LIMIT) if failed.exception == "MemoryError" else failed
    if judged.status is not Status.OK:
        return judged
    message = f"exited with status {judged.exit_code} before the test ended"
    return replace(judged, status=Status.RUNTIME_ERROR, message=message)


def _judge_official(job: Job, outcome: TestOutcome, item: Any) -> TestOutcome:
    if not isinstance(item, dict):
        return replace(outcome, status=Status.RUNTIME_ERROR)
    if "exception" in item:
        status = Status.TIME_LIMIT if item.get("timed_out") else Status.RUNTIME_ERROR
        return replace(outcome, status=status, **exception_fields(item))
    if job.fn_name:
        return with_result(outcome, item)
    return replace(outcome, stdout=_string(item.get("stdout"), _MAX_RECORD))


def exception_fields(record: Any) -> dict[str, Any]:
    """Return the fields of an outcome that describe an exception; none if the program left no sensible record."""
    if not isinstance(record, dict) or not isinstance(record.get("exception"), str):
        return {}
    frames = record.get("frames")
    return {
        "exception": record["exception"][:200],
        "message": _string(record.get("message"), _MAX_MESSAGE),
        "frames": tuple(_frame_list(frames if isinstance(frames, list) else [])),
    }


def _frame_list(frames: list[Any]) -> Iterator[Frame]:
    for item in frames[:20]:
        if isinstance(item, list) and len(item) == 2 and type(item[0]) is int and 0 <= item[0] <= _MAX_LINE:
            yield Frame(item[0], _string(item[1], 200))


def _string(value: Any, limit: int) -> str:
    """Return a text of a record, cut; "" for anything else, which may be costly or impossible to write as text."""
    return value[:limit] if isinstance(value, str) else ""


def decoded(data: Any) -> Any:
    """Return the value that a program claims to have returned, or an Opaque if it cannot be had at a bounded cost."""
    try:
        return values.decode(data, _opaque, collisions=values.Collisions())
    except Exception:  # MemoryError and RecursionError included: any fault of a value is the program's
        return Opaque("unreadable value")


def _opaque(tag: str, content: Any) -> Opaque:
    name, array = content
    if tag != "other" or not isinstance(name, str):
        raise ValueError("not an encoded value")
    return Opaque(name[:200], None if array is None else values.decode(array, _opaque, collisions=values.Collisions()))


def _record(descriptor: int, tests: Sequence[TestInput]) -> dict[str, Any]:
    """Return what the harness, or a program in its place, wrote. Anything but a JSON object counts as nothing."""
    data = _bytes(descriptor, _MAX_RECORD)
    # An empty list takes 2 bytes of JSON, 64 of memory and some microseconds. A right answer has no more elements than
    # bytes. Commas within texts count too, which is near enough.
    most = _MAX_ELEMENTS + sum(max(0, test.output_limit - MIB) for test in tests)
    if sum(map(data.count, (b",", b"[", b"{"))) > most:
        return {"value": values.named("value of too many elements")} if data.startswith(b'{"value"') else {}
    try:
        record = json.loads(data)
    except (ValueError, RecursionError, MemoryError):
        return {}
    return record if isinstance(record, dict) else {}


def _size(outcome: TestOutcome) -> int:
    return len(outcome.stdout.encode("utf-8", "surrogatepass"))


def _text(descriptor: int, limit: int) -> str:
    data = _bytes(descriptor, limit)
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace")


def _bytes(descriptor: int, limit: int) -> bytes:
    size = min(os.fstat(descriptor).st_size, limit)
    parts, offset = [], 0
    while offset < size and (part := os.pread(descriptor, size - offset, offset)):
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


@contextmanager
def _files() -> Iterator[Callable[[str], int]]:
    """Provide a function that makes memory files holding a text; they end with the block."""
    opened: list[int] = []

    def create(text: str) -> int:
        descriptor = os.memfd_create("sandbox")
        opened.append(descriptor)
        data = text.encode("utf-8", "surrogatepass")
        offset = 0
        while offset < len(data):
            offset += os.pwrite(descriptor, data[offset:], offset)
        return descriptor

    try:
        yield create
    finally:
        for descriptor in opened:
            os.close(descriptor)
