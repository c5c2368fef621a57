"""Sharing: threads, coroutines, processes of a node; refusing to start; deadlines and duplicates."""

import asyncio
import gc
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests.feedback.sandbox.conftest import children_of
from verl.utils.reward_score.feedback import sandbox
from verl.utils.reward_score.feedback.programs import Judge
from verl.utils.reward_score.feedback.sandbox import (
    Job,
    Level,
    SandboxConfig,
    SandboxUnavailable,
    Status,
    TestInput,
    TestOutcome,
    pool,
)
from verl.utils.reward_score.feedback.sandbox.fork_server import ForkServer
from verl.utils.reward_score.feedback.sandbox.slots import Slots


def _mixed(number: int) -> list[Job]:
    return [
        Job(f"print(int(input()) + {number})", "stdin", (TestInput("1"), TestInput("2"))),
        Job(f"def f(x): return [x, {number}]", "functional", (TestInput("[1]"),), fn_name="f"),
        Job(f"def f(x): return x + {number}", "assert", (TestInput(f"assert f(1) == {number + 1}"),), fn_name="f"),
        Job(f"1 / 0 # {number}", "stdin", (TestInput(""),)),
    ]


def _check(number: int, outcomes: list[list[TestOutcome]]) -> None:
    assert [outcome.stdout for outcome in outcomes[0]] == [f"{number + 1}\n", f"{number + 2}\n"]
    assert outcomes[1][0].result == [1, number]
    assert outcomes[2][0].status is Status.OK
    assert outcomes[3][0].exception == "ZeroDivisionError"


@pytest.fixture(scope="module", autouse=True)
def _shared_pool() -> Iterator[None]:
    sandbox.configure(SandboxConfig(workers=4))
    yield
    sandbox.configure(SandboxConfig())


def test_sixteen_threads_get_the_right_answers() -> None:
    with ThreadPoolExecutor(16) as threads:
        for number, outcomes in enumerate(threads.map(lambda n: sandbox.run(_mixed(n)), range(48))):
            _check(number, outcomes)


def test_coroutines_get_the_right_answers_and_the_loop_stays_free() -> None:
    async def grade() -> tuple[list[list[list[TestOutcome]]], float]:
        longest, last = 0.0, time.monotonic()
        grading = asyncio.gather(*(sandbox.run_async(_mixed(number)) for number in range(100, 132)))
        while not grading.done():
            await asyncio.sleep(0.005)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        return await grading, longest

    results, longest = asyncio.run(grade())
    for number, outcomes in enumerate(results, 100):
        _check(number, outcomes)
    assert longest < 2.0


def test_the_level_is_stamped() -> None:
    assert sandbox.level() == {"sandbox_level": int(pool.shared().machine.level), "sandbox_insecure": 0}


def test_stop_when_sees_each_outcome_and_ends_the_job() -> None:
    seen = []

    def stop(index: int, outcome: TestOutcome) -> bool:
        seen.append((index, outcome.stdout))
        return index == 1

    job = Job("print(input())", "stdin", tuple(TestInput(text) for text in "abcd"), stop_when=stop)
    outcomes = sandbox.run([job])[0]
    assert seen == [(0, "a\n"), (1, "b\n")]
    assert [outcome.status for outcome in outcomes[2:]] == [Status.NOT_RUN] * 2


def _job(text: str) -> Job:
    return Job(text, "stdin", (TestInput(""),))


class TestScheduler:
    def test_equal_jobs_run_once(self) -> None:
        runs: list[Job] = []

        def work(job: Job) -> list[TestOutcome]:
            runs.append(job)
            time.sleep(0.02)
            return [TestOutcome(Status.OK)]

        scheduler = pool.Scheduler(work, workers=2, deadline=60)
        outcomes = scheduler.run([_job("a"), _job("a"), _job("b"), _job("a")])
        assert len(outcomes) == 4 and sorted(job.program for job in runs) == ["a", "b"]
        scheduler.run([_job("a")])
        assert len(runs) == 2
        scheduler.end()

    def test_sandbox_errors_are_not_remembered(self) -> None:
        answers = iter([Status.SANDBOX_ERROR, Status.OK])
        scheduler = pool.Scheduler(lambda job: [TestOutcome(next(answers))], workers=1, deadline=60)
        assert scheduler.run([_job("a")])[0][0].status is Status.SANDBOX_ERROR
        assert scheduler.run([_job("a")])[0][0].status is Status.OK
        scheduler.end()

    @pytest.mark.parametrize(
        ("outcome", "runs"),
        [
            (TestOutcome(Status.OK, result=10**5000, returned=True), 1),
            (TestOutcome(Status.TEST_FAILED), 1),
            (TestOutcome(Status.RUNTIME_ERROR, exception="KeyError"), 1),
            (TestOutcome(Status.COMPILE_ERROR), 1),
            (TestOutcome(Status.OUTPUT_LIMIT), 1),
            (TestOutcome(Status.TIME_LIMIT, cpu_seconds=6.1), 1),
            # A process that was stopped, swapped out, or waited for a disk.
            (TestOutcome(Status.TIME_LIMIT, cpu_seconds=0.2), 2),
            (TestOutcome(Status.RUNTIME_ERROR, exception="TimeoutException"), 2),
            (TestOutcome(Status.RUNTIME_ERROR, exception="RuntimeError", message="can't start new thread"), 2),
            (TestOutcome(Status.RUNTIME_ERROR, exception="OSError", message="[Errno 23] Too many open files"), 2),
            (TestOutcome(Status.RUNTIME_ERROR, exception="BlockingIOError"), 2),
            # The machine's memory was full.
            (TestOutcome(Status.MEMORY_LIMIT), 2),
            (TestOutcome(Status.KILLED, signal=9), 2),
            (TestOutcome(Status.SANDBOX_ERROR), 2),
        ],
    )
    def test_what_the_machine_did_is_not_remembered(self, outcome: TestOutcome, runs: int) -> None:
        ran = []

        def work(job: Job) -> list[TestOutcome]:
            ran.append(job)
            return [outcome]

        scheduler = pool.Scheduler(work, workers=1, deadline=60)
        assert [scheduler.run([_job("a")]) for _ in range(2)] == [[[outcome]]] * 2
        scheduler.end()
        assert len(ran) == runs

    def test_a_wall_clock_limit_over_many_tests_is_not_remembered(self) -> None:
        ran = []

        def work(job: Job) -> list[TestOutcome]:
            ran.append(job)
            return [TestOutcome(Status.TIME_LIMIT, cpu_seconds=60)]

        scheduler = pool.Scheduler(work, workers=1, deadline=60)
        for _ in range(2):
            scheduler.run([replace(_job("a"), mode="lcb-official")])
        scheduler.end()
        assert len(ran) == 2

    def test_every_caller_gets_outcomes_of_its_own(self) -> None:
        def work(job: Job) -> list[TestOutcome]:
            return [TestOutcome(Status.OK, result={"x": [1]})]

        scheduler = pool.Scheduler(work, workers=1, deadline=60)
        for outcomes in (*scheduler.run([_job("a"), _job("a")]), scheduler.run([_job("a")])[0]):
            assert outcomes[0].result == {"x": [1]}
            outcomes[0].result["x"].append(2)
            outcomes[0] = TestOutcome(Status.KILLED)
        scheduler.end()

    def test_what_has_not_started_at_the_deadline_is_no_fault_of_the_program(self) -> None:
        def work(job: Job) -> list[TestOutcome]:
            time.sleep(0.3)
            return [TestOutcome(Status.OK)]

        scheduler = pool.Scheduler(work, workers=1, deadline=0.1)
        first, second = scheduler.run([_job("a"), _job("b")])
        assert first[0].status is Status.OK
        assert second[0].status is Status.SANDBOX_ERROR and "batch_deadline=0.1" in second[0].message
        scheduler.end()

    def test_an_error_of_ours_reaches_the_caller(self) -> None:
        def work(job: Job) -> list[TestOutcome]:
            raise SandboxUnavailable("gone")

        scheduler = pool.Scheduler(work, workers=1, deadline=60)
        with pytest.raises(SandboxUnavailable):
            scheduler.run([_job("a")])
        scheduler.end()


class TestSlots:
    def test_a_slot_is_held_by_one(self, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        first, second, order = Slots(1), Slots(1), []

        def wait() -> None:
            with second.take():
                order.append("second")

        with first.take():
            thread = threading.Thread(target=wait)
            thread.start()
            time.sleep(0.1)
            order.append("first")
        thread.join()
        assert order == ["first", "second"]

    def test_a_killed_process_frees_its_slot(self, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        slots = Slots(1)
        path = tmp_path / f"sdpo-sandbox-{os.geteuid()}" / "slot-0"
        holder = "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print(1); time.sleep(60)"
        with subprocess.Popen([sys.executable, "-u", "-S", "-c", holder, path], stdout=subprocess.PIPE) as process:
            assert process.stdout and process.stdout.readline() == b"1\n"
            assert slots._try() is None
            process.kill()
        with slots.take():
            pass

    def test_a_folder_that_was_cleaned_up_is_made_again(self, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        slots = Slots(2)
        shutil.rmtree(tmp_path / f"sdpo-sandbox-{os.geteuid()}")
        with slots.take():
            (folder,) = tmp_path.iterdir()
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            assert [stat.S_IMODE(slot.stat().st_mode) for slot in folder.iterdir()] == [0o600]

    @pytest.mark.parametrize("kind", ["link", "file", "open to all", "open to the group"])
    def test_a_folder_that_is_not_ours_alone_is_refused(
        self, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path
    ) -> None:
        folder = tmp_path / f"sdpo-sandbox-{os.geteuid()}"
        if kind == "link":
            (tmp_path / "elsewhere").mkdir(mode=0o700)
            folder.symlink_to(tmp_path / "elsewhere")
        elif kind == "file":
            folder.touch()
        else:
            folder.mkdir()
            folder.chmod(0o777 if kind == "open to all" else 0o770)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        with pytest.raises(PermissionError, match=f"{folder} .*TMPDIR"):
            Slots(1)

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make another user's folder")
    def test_a_folder_of_another_user_is_refused(self, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
        folder = tmp_path / f"sdpo-sandbox-{os.geteuid()}"
        folder.mkdir(mode=0o700)
        os.chown(folder, 65534, 65534)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        with pytest.raises(PermissionError, match="belongs to user 65534"):
            Slots(1)

    def test_a_slot_that_is_a_link_is_not_followed(self, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        slots = Slots(1)
        (tmp_path / f"sdpo-sandbox-{os.geteuid()}" / "slot-0").symlink_to(tmp_path / "victim")
        with pytest.raises(OSError, match="symbolic links"):
            slots._try()
        assert not (tmp_path / "victim").exists()


class TestRefusal:
    def test_too_low_a_level_names_reason_and_fix(self) -> None:
        with pytest.raises(SandboxUnavailable) as caught:
            pool.Pool(SandboxConfig(max_level=Level.L1))
        text = str(caught.value)
        assert "level L1" in text and "min_level=L2" in text
        assert "landlock: off; needs Linux 5.13" in text and "allow_insecure=true" in text

    def test_insecure_must_be_said_twice(self) -> None:
        with pytest.raises(ValueError, match="allow_insecure"):
            SandboxConfig(min_level=Level.L1)

    def test_allowed_insecurity_is_stamped(self, caplog: pytest.LogCaptureFixture) -> None:
        insecure = pool.Pool(SandboxConfig(max_level=Level.L0, allow_insecure=True))
        assert insecure.stamp() == {"sandbox_level": 0, "sandbox_insecure": 1}
        assert "allow_insecure" in caplog.text
        insecure.end()

    def test_one_line_is_printed_at_the_start(self, capsys: pytest.CaptureFixture) -> None:
        pool.Pool(SandboxConfig()).end()
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 1 and lines[0].startswith("sandbox: level=L")

    def test_losing_a_layer_later_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        confined = pool.Pool(SandboxConfig(workers=1))

        class Weaker(ForkServer):
            def _start(self) -> None:
                super()._start()
                self.report["landlock"] = "no (Operation not permitted)"

        monkeypatch.setattr(pool, "ForkServer", Weaker)
        with pytest.raises(SandboxUnavailable, match="lost a layer"):
            confined.scheduler.run([_job("print(1)")])
        confined.end()

    @pytest.mark.parametrize("variable", ["MIN_LEVEL", "ALLOW_INSECURE", "WORKERS"])
    def test_unreadable_variables_are_named(self, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(f"SDPO_SANDBOX_{variable}", "many")
        with pytest.raises(ValueError, match=f"SDPO_SANDBOX_{variable}='many'"):
            SandboxConfig.from_env()


def test_a_job_without_tests_is_refused() -> None:
    with pytest.raises(ValueError, match="without tests"):
        Job("print(1)", "stdin", ())


def test_more_programs_than_cores_cause_no_time_limit() -> None:
    cores = len(os.sched_getaffinity(0))
    crowd = pool.Pool(SandboxConfig(workers=8 * cores))
    busy = "import time\nwhile time.process_time() < 0.5: pass\nprint({})"
    jobs = [Job(busy.format(n), "stdin", (TestInput(""),), time_limit=1.0) for n in range(8 * cores)]
    statuses = [outcomes[0].status for outcomes in crowd.scheduler.run(jobs)]
    crowd.end()
    assert statuses == [Status.OK] * len(jobs)


def test_a_forked_process_starts_a_pool_of_its_own() -> None:
    sandbox.level()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if pool._pool is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


_TRAINER = """
import threading, time
from verl.utils.reward_score.feedback.sandbox import pool, Job, SandboxConfig, TestInput
from verl.utils.reward_score.feedback.sandbox.fork_server import ForkServer
start = ForkServer._start
def told(self):
    start(self)
    print(self.pid, flush=True)
ForkServer._start = told
p = pool.Pool(SandboxConfig(workers=1))
p.scheduler.run([Job("import time\\ntime.sleep(100)", "stdin", (TestInput(""),), time_limit=60)])
"""


def _gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_nothing_outlives_a_killed_trainer() -> None:
    with subprocess.Popen([sys.executable, "-c", _TRAINER], stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout
        lines = []
        while len(lines) < 3:  # the canaries' server, the sandbox's line, the job's server
            lines.append(trainer.stdout.readline())
        server = int(lines[-1])
        while not children_of(server):
            time.sleep(0.01)
        program = int(children_of(server)[0])
        os.kill(trainer.pid, signal.SIGKILL)
        deadline = time.monotonic() + 2
        while not (_gone(server) and _gone(program)) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert _gone(server) and _gone(program)


@pytest.mark.e2e
def test_ray_actors_share_the_sandbox() -> None:
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)

    @ray.remote(max_concurrency=4)
    class Worker:
        async def grade(self, number: int) -> list[list[TestOutcome]]:
            return await sandbox.run_async(_mixed(number))

        def grade_in_thread(self, number: int) -> list[list[TestOutcome]]:
            return sandbox.run(_mixed(number))

    try:
        workers = [Worker.remote() for _ in range(2)]
        results = ray.get([workers[number % 2].grade.remote(number) for number in range(16)])
        for number, outcomes in enumerate(results):
            _check(number, outcomes)
    finally:
        ray.shutdown()


def test_a_job_that_failed_is_remembered_although_its_judge_took_notes() -> None:
    runs: list[Job] = []

    def work(job: Job) -> list[TestOutcome]:
        runs.append(job)
        outcome = TestOutcome(Status.OK, stdout="wrong")
        assert job.stop_when is not None
        job.stop_when(0, outcome)
        return [outcome]

    scheduler = pool.Scheduler(work, workers=1, deadline=60)
    for expected in ("right", "right", "other"):
        scheduler.run([Job("pass", "stdin", (TestInput("x"),), stop_when=Judge("stdin", "paper", (expected,)))])
    scheduler.end()
    assert len(runs) == 2


def test_what_is_remembered_of_a_job_does_not_hold_its_tests() -> None:
    """A problem's inputs have megabytes, and what comes of them a few hundred bytes."""
    runs: list[int] = []

    def work(job: Job) -> list[TestOutcome]:
        runs.append(len(job.tests))
        return [TestOutcome(Status.OK)]

    scheduler = pool.Scheduler(work, workers=1, deadline=60)
    job = Job("pass", "stdin", (TestInput("x"),))
    held = weakref.ref(job)
    scheduler.run([job])
    scheduler.run([Job("pass", "stdin", (TestInput("x"),))])
    scheduler.end()
    del job
    gc.collect()
    assert runs == [1] and held() is None
