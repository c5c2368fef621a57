"""Run jobs on a SandboxFusion server, through verl's client, with the harness that the local fork servers use.

The server runs one process per call, so a test's source would have to share it with the program: `assert` jobs stay
with the local sandbox, and so does `lcb-official`.
"""

import json
import math
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

from verl.utils.reward_score.feedback.sandbox import jail
from verl.utils.reward_score.feedback.sandbox.api import MIB, Job, SandboxUnavailable, Status, TestInput, TestOutcome
from verl.utils.reward_score.feedback.sandbox.runner import ends_job, exception_fields, output_limit, with_result

_HARNESS = Path(jail.__file__).parent

# The record follows stdout, behind a mark that nobody can print by accident.
_PROGRAM = """
import os, sys, types
def load(name, source):
    module = sys.modules["jail." + name] = types.ModuleType("jail." + name)
    module.__package__ = "jail"
    exec(source, module.__dict__)
    setattr(sys.modules["jail"], name, module)
    return module
sys.modules["jail"] = types.ModuleType("jail")
sys.modules["jail"].__path__ = []
load("values", {values!r})
harness = load("harness", {harness!r})
def record(data, dumps=harness.json.dumps):
    sys.__stdout__.flush()
    os.write(1, ({mark!r} + dumps(data)).encode())
harness.record = record
harness.read_input = lambda: sys.stdin.read()
harness.prepare()
harness.open_standard_streams()
if {fn_name!r} is None:
    harness.run_script({program!r})
else:
    harness.run_function({program!r}, {fn_name!r})
"""


def run_job(url: str, job: Job) -> list[TestOutcome]:
    """Return one outcome per test. Raises SandboxUnavailable for jobs that need the local sandbox."""
    if job.kind == "assert" or job.mode != "script":
        raise SandboxUnavailable(
            f"kind={job.kind!r} with mode={job.mode!r} cannot run on sandbox.remote_url={url!r}; "
            "unset it to use the local sandbox for this data set."
        )
    outcomes: list[TestOutcome] = []
    for index, test in enumerate(job.tests):
        outcome = _run_test(url, job, test)
        if outcome.status is Status.SANDBOX_ERROR:
            outcome = _run_test(url, job, test)
        outcomes.append(outcome)
        if ends_job(job, index, outcome):
            break
    return outcomes + [TestOutcome(Status.NOT_RUN)] * (len(job.tests) - len(outcomes))


def _run_test(url: str, job: Job, test: TestInput) -> TestOutcome:
    # Here, because verl's package takes seconds to import and local runs have no use for it.
    from verl.utils.reward_score.sandbox_fusion.utils import call_sandbox_api

    mark = f"\n{secrets.token_hex(16)}"
    sources = {name: (_HARNESS / f"{name}.py").read_text() for name in ("values", "harness")}
    code = _PROGRAM.format(**sources, mark=mark, program=job.program, fn_name=job.fn_name)
    seconds = math.ceil(job.time_limit)
    answer, error = call_sandbox_api(url, code, test.text, seconds, seconds, job.memory_limit // MIB)
    result = (answer or {}).get("run_result")
    if error or not isinstance(result, dict) or (answer or {}).get("status") == "SandboxError":
        return TestOutcome(Status.SANDBOX_ERROR, message=error or f"unusable answer: {str(answer)[:500]}")
    return _judge(job, result, mark, output_limit(test))


def _judge(job: Job, result: dict[str, Any], mark: str, limit: int) -> TestOutcome:
    stdout, _, text = str(result.get("stdout") or "").partition(mark)
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        record = {}
    record = record if isinstance(record, dict) else {}
    outcome = TestOutcome(
        Status.OK,
        stdout=stdout,
        stderr=str(result.get("stderr") or ""),
        exit_code=result.get("return_code"),
        seconds=float(result.get("execution_time") or 0.0),
        **exception_fields(record),
    )
    return _with_status(job, outcome, record, over=len(stdout) >= limit, finished=result.get("status"))


def _with_status(
    job: Job, outcome: TestOutcome, record: dict[str, Any], *, over: bool, finished: "str | None"
) -> TestOutcome:
    if finished == "TimeLimitExceeded":
        return replace(outcome, status=Status.TIME_LIMIT)
    if over:
        return replace(outcome, status=Status.OUTPUT_LIMIT)
    if outcome.exception == "MemoryError":
        return replace(outcome, status=Status.MEMORY_LIMIT)
    if record.get("stage") == "compile":
        return replace(outcome, status=Status.COMPILE_ERROR)
    if outcome.exception or outcome.exit_code or finished != "Finished":
        return replace(outcome, status=Status.RUNTIME_ERROR)
    return with_result(outcome, record) if job.kind == "functional" else outcome
