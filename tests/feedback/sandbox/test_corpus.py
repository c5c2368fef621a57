"""Every program of the corpus at every level that this machine can force."""

import json
import math
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.feedback.sandbox import corpus
from tests.feedback.sandbox.conftest import Lease, children_of, snapshot
from tests.feedback.sandbox.corpus import Row
from verl.utils.reward_score.feedback import sandbox
from verl.utils.reward_score.feedback.programs import Judge
from verl.utils.reward_score.feedback.sandbox import Job, Level, Status, TestInput, TestOutcome
from verl.utils.reward_score.feedback.sandbox.fork_server import STARVED_SECONDS
from verl.utils.reward_score.feedback.sandbox.runner import run_job

_AFTER = Job("print(int(input()) * 2)", "stdin", (TestInput("21"),))


def _job(row: Row, victim: Path, port: int) -> Job:
    program = row.program.replace("{victim}", str(victim)).replace("{pid}", str(os.getpid()))
    program = program.replace("{port}", str(port))
    program = program.replace("{{", "{").replace("}}", "}") if row in corpus.ESCAPES else program
    fn_name = None if row.kind == "stdin" else "f"
    return Job(program, row.kind, (TestInput(row.stdin),), fn_name=fn_name, **row.options)  # type: ignore[arg-type]


def _verdict(row: Row, outcome: TestOutcome) -> str:
    if outcome.status is not Status.OK:
        return outcome.status.name
    if row.kind == "assert":
        return "AC"
    got = outcome.result if row.kind == "functional" else outcome.stdout.strip()
    return "AC" if got == row.answer else "WA"


@pytest.mark.parametrize("row", corpus.ROWS, ids=str)
def test_program(row: Row, level: Level, lease: Lease, victim: Path, port: int) -> None:
    if level < row.needs and row.unsafe:
        # Listed in corpus.OPEN or, at L0, by its `needs`; running it would harm this machine.
        assert row in corpus.ESCAPES
        return
    before, server, discarded, job = snapshot(victim), lease.current.pid, lease.discarded, _job(row, victim, port)
    start = time.monotonic()
    outcome = run_job(job, lease)[0]
    seconds = time.monotonic() - start
    if level < row.needs:
        assert "escaped" in outcome.stdout, f"{row} is blocked at {level.name}: lower its `needs`"
        return
    assert _verdict(row, outcome) in row.expect.split(), outcome
    assert row.says in outcome.message
    assert "escaped" not in outcome.stdout
    # RLIMIT_CPU counts whole seconds; the wall limit stretches by what a busy machine kept the program waiting.
    assert outcome.cpu_seconds < math.ceil(job.time_limit) + 1.5
    assert seconds < 3 * job.time_limit + 2 + STARVED_SECONDS
    assert snapshot(victim) == before
    assert lease.current.pid == server and lease.discarded == discarded
    assert children_of(lease.current.pid) == []
    assert run_job(_AFTER, lease)[0].stdout == "42\n"


@pytest.mark.parametrize("row", corpus.ROWS, ids=str)
def test_program_through_the_pool(row: Row, victim: Path, port: int) -> None:
    """Run each program by the entry that graders use, cache included, and judge it as they do."""
    job = _job(row, victim, port)
    expected = json.dumps(row.answer, default=repr) if job.kind == "functional" and row.number != 43 else "1"
    judge = Judge(job.kind, "script", (expected if job.kind != "stdin" else str(row.answer),))
    outcomes = [sandbox.run([replace(job, stop_when=judge)])[0][0] for _ in range(2)]
    for outcome in outcomes:
        assert _verdict(row, outcome) in row.expect.split(), outcome
        judge.verdict(0, outcome)  # raises GraderFault for a fault of the sandbox


@pytest.mark.parametrize("open_level", list(corpus.OPEN))
def test_what_a_level_leaves_open_is_listed(open_level: Level) -> None:
    assert [str(row) for row in corpus.ROWS if row.needs > open_level] == corpus.OPEN[open_level]


def test_a_large_result_of_an_assertion_test_is_no_fault(lease: Lease) -> None:
    job = Job("def f(n): return [n] * n", "assert", (TestInput("assert len(f(10**6)) == 10**6"),), fn_name="f")
    outcome = run_job(job, lease)[0]
    assert (outcome.status, outcome.last_call, outcome.returned) == (Status.OK, "f(1000000)", False)


def test_dev_null_can_be_written(level: Level, lease: Lease) -> None:
    outcome = run_job(Job("import os\nopen(os.devnull, 'w').write('x')", "stdin", (TestInput(""),)), lease)[0]
    # Without Landlock, opening for writing is refused altogether: seccomp does not see the path.
    assert outcome.status is (Status.RUNTIME_ERROR if level is Level.L1 else Status.OK)


def test_compile_error_names_the_line(lease: Lease) -> None:
    outcome = run_job(Job("x = 1\ndef f(:\n pass", "stdin", (TestInput(""),)), lease)[0]
    assert (outcome.exception, outcome.frames[-1].line) == ("SyntaxError", 2)


def test_runtime_error_names_its_frames(lease: Lease) -> None:
    program = "def f(n):\n    return 1 // n\n\nf(0)"
    outcome = run_job(Job(program, "stdin", (TestInput(""),)), lease)[0]
    assert [(frame.line, frame.function) for frame in outcome.frames] == [(4, "<module>"), (2, "f")]
    assert outcome.message == "integer division or modulo by zero"


def test_each_test_starts_afresh(lease: Lease) -> None:
    program = "import sys\nseen = getattr(sys, 'k', 0)\nsys.k = 1\ndef f(x):\n    return seen"
    outcomes = run_job(Job(program, "functional", (TestInput("[1]"),) * 3, fn_name="f"), lease)
    assert [outcome.result for outcome in outcomes] == [0, 0, 0]


def test_the_first_time_limit_ends_the_job(lease: Lease) -> None:
    outcomes = run_job(Job("while True: pass", "stdin", (TestInput(""),) * 3, time_limit=0.3), lease)
    assert [outcome.status for outcome in outcomes] == [Status.TIME_LIMIT, Status.NOT_RUN, Status.NOT_RUN]


def test_set_order_is_the_same_every_time(lease: Lease) -> None:
    job = Job("print({'a', 'b', 'c', 'd'}, hash('x'))", "stdin", (TestInput(""),) * 20)
    assert len({outcome.stdout for outcome in run_job(job, lease)}) == 1


def test_the_output_limit_hides_the_answers_length() -> None:
    from verl.utils.reward_score.feedback.sandbox.runner import output_limit

    mib = 1 << 20
    assert {output_limit(TestInput("", mib + 4 * length)) for length in (1, 2, 3, 1000)} == {2 * mib}
    assert output_limit(TestInput("", 5)) == mib
