"""Code graders: run the response's program on the task's tests in the sandbox and judge what it did."""

import json
import re
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Literal

from verl.utils.reward_score.feedback import compare, sandbox
from verl.utils.reward_score.feedback.contract import Grade, GraderFault, Task, Verdict
from verl.utils.reward_score.feedback.extract import last_python_block, longest_block, official_block
from verl.utils.reward_score.feedback.render import Failure, View, render, render_no_code
from verl.utils.reward_score.feedback.sandbox import Job, SandboxConfig, Status, TestInput, TestOutcome
from verl.utils.reward_score.feedback.sandbox.api import MIB
from verl.utils.reward_score.feedback.text import clip

DEFAULT_TIME_LIMIT = 6.0
_PRED_CHARS_PER_TEST = 100


@dataclass(frozen=True)
class Mode:
    """The rules of one grading mode."""

    extract: Callable[[str, Collection[str]], str | None]
    """Extracts the program from a response and the names that it should define."""
    same_stdout: Callable[[str, str], bool]
    same_line: Callable[[str, str], bool]
    """Finds the first different line, for the feedback."""
    same_value: Callable[[Any, Any], bool]
    max_failures: int
    """Failed tests after which the rest is not run; 0 runs all."""


MODES = {
    "script": Mode(last_python_block, compare.stdout_script, compare.lines_close, compare.value_script, max_failures=2),
    "lcb-official": Mode(
        lambda response, names: official_block(response),
        compare.stdout_official,
        compare.lines_match,
        compare.value_official,
        max_failures=1,
    ),
    "paper": Mode(
        lambda response, names: longest_block(response),
        compare.stdout_paper,
        compare.lines_match,
        compare.value_paper,
        max_failures=0,
    ),
}

Kind = Literal["stdin", "functional", "assert"]
_KINDS: dict[str, Kind] = {"stdin": "stdin", "functional": "functional", "code": "assert"}

# In this order of precedence when tests fail in several ways: the first is what the sample's feedback is about.
_VERDICTS = {
    Status.COMPILE_ERROR: Verdict.COMPILE_ERROR,
    Status.RUNTIME_ERROR: Verdict.RUNTIME_ERROR,
    Status.KILLED: Verdict.RUNTIME_ERROR,
    Status.TIME_LIMIT: Verdict.TIME_LIMIT,
    Status.MEMORY_LIMIT: Verdict.MEMORY_LIMIT,
    Status.OUTPUT_LIMIT: Verdict.OUTPUT_LIMIT,
    Status.TEST_FAILED: Verdict.WRONG_ANSWER,
}


@dataclass(frozen=True)
class Tests:
    """A code task's ground truth, checked."""

    __test__ = False

    kind: Kind
    inputs: tuple[Any, ...]
    expected: tuple[str, ...]
    """Expected outputs; JSON text for `functional`, "" for `assert`."""
    fn_name: str | None
    context: str
    time_limit: float
    """Seconds."""

    def names(self) -> set[str]:
        """Return the names of which a program must define one: its function, or what the assertions call or hand on."""
        if self.kind != "assert":
            return {self.fn_name} if self.fn_name else set()
        program = "\n".join([self.context, *map(_lines, self.inputs)])
        called = re.findall(r"(?<![\w.])([a-zA-Z_]\w*)\s*\((?:(\w+)\))?", program)
        return set().union(*called) - {"", *re.findall(r"\bdef\s+(\w+)", program)}


def parse_tests(ground_truth: Any) -> Tests:
    """Read the `tests` object `{"inputs", "outputs", "testtype", "fn_name", "time_limit", "context"}`.

    Raises:
        GraderFault: It is no such object, or has no tests, or not one output per input.
    """
    try:
        tests = json.loads(ground_truth) if isinstance(ground_truth, str) else dict(ground_truth)
        kind, inputs = _KINDS[tests["testtype"]], tuple(tests["inputs"])
        if isinstance(tests["inputs"], str):
            raise TypeError("inputs is a text, expected a list")
        expected = ("",) * len(inputs)
        if kind != "assert":
            expected = tuple(_expected_text(output, kind) for output in tests["outputs"])
        if not inputs or len(inputs) != len(expected):
            raise ValueError(f"{len(inputs)} inputs and {len(expected)} outputs: need as many, and at least one")
        time_limit = float(tests.get("time_limit") or DEFAULT_TIME_LIMIT)
        return Tests(kind, inputs, expected, tests.get("fn_name") or None, tests.get("context") or "", time_limit)
    except (ValueError, KeyError, TypeError) as error:
        raise GraderFault(f"the tests are unusable: {error!r}") from error


def _expected_text(output: Any, kind: str) -> str:
    if kind == "stdin":
        return _lines(output)
    if isinstance(output, str):
        json.loads(output)
        return output
    return json.dumps(output)


def _lines(value: Any) -> str:
    return "\n".join(value) if isinstance(value, list) else str(value)


def job_text(value: Any, kind: str, mode: str) -> str:
    """Return a test's input as the sandbox takes it.

    A functional test's text holds one JSON argument per line; the SDPO authors split it at any whitespace. For
    `lcb-official` the sandbox reads the lines itself, as strictly as LiveCodeBench.

    Raises:
        ValueError: An argument is no JSON.
    """
    if kind != "functional":
        return _lines(value)
    if not isinstance(value, str):
        return json.dumps(value)
    if mode == "lcb-official":
        return value
    arguments = value.split() if mode == "paper" else [line for line in value.split("\n") if line.strip()]
    return json.dumps([json.loads(argument) for argument in arguments])


@dataclass(frozen=True)
class Judge:
    """The rule from what a run did to a verdict. Equal for equal tests, so that the sandbox can merge equal jobs."""

    kind: str
    mode: str
    expected: tuple[str, ...]
    _failed: set[int] = field(default_factory=set, compare=False, repr=False)

    def verdict(self, index: int, outcome: TestOutcome) -> Verdict | None:
        """Return the verdict on test `index`; None if it was not run.

        Raises:
            GraderFault: The sandbox failed.
        """
        if outcome.status is Status.SANDBOX_ERROR:
            raise GraderFault(f"the sandbox failed: {outcome.message}")
        if outcome.status is Status.NOT_RUN:
            return None
        if outcome.status is not Status.OK:
            return _VERDICTS[outcome.status]
        if self.kind == "functional" and not outcome.returned:
            return Verdict.RUNTIME_ERROR
        return Verdict.ACCEPTED if self._right(index, outcome) else Verdict.WRONG_ANSWER

    def _right(self, index: int, outcome: TestOutcome) -> bool:
        if self.kind == "assert":
            return True
        rules, expected = MODES[self.mode], self.expected[index]
        if self.kind == "functional":
            expected = json.loads(expected)
        try:
            if self.kind == "stdin":
                return rules.same_stdout(outcome.stdout, expected)
            return rules.same_value(outcome.result, expected)
        except Exception:  # the program chose what is compared; it must not choose the grader's fault as well
            return False

    def __call__(self, index: int, outcome: TestOutcome) -> bool:
        """Return whether enough tests have failed to stop (`Job.stop_when`)."""
        if outcome.status is not Status.SANDBOX_ERROR and self.verdict(index, outcome) is not Verdict.ACCEPTED:
            self._failed.add(index)
        return len(self._failed) >= MODES[self.mode].max_failures > 0


def run_tests(program: str, tests: Tests, judge: Judge) -> list[TestOutcome]:
    """Run the program on every test whose input can be read; the others count as runtime errors in mode `paper`."""
    texts: dict[int, str] = {}
    outcomes = [TestOutcome(Status.NOT_RUN)] * len(tests.inputs)
    for i, value in enumerate(tests.inputs):
        try:
            texts[i] = job_text(value, tests.kind, judge.mode)
        except ValueError as error:
            if judge.mode != "paper":
                raise GraderFault(f"input of test {i + 1} is unusable: {error}") from error
            outcomes[i] = TestOutcome(Status.RUNTIME_ERROR, exception="JSONDecodeError", message=str(error))
    if texts:
        job = Job(
            program=program,
            kind=tests.kind,
            tests=tuple(TestInput(text, MIB + 4 * len(tests.expected[i].encode())) for i, text in texts.items()),
            fn_name=tests.fn_name,
            context=tests.context,
            mode="lcb-official" if judge.mode == "lcb-official" and tests.kind != "assert" else "script",
            time_limit=tests.time_limit,
            stop_when=judge,
        )
        for i, outcome in zip(texts, sandbox.run([job])[0], strict=True):
            outcomes[i] = outcome
    return outcomes


def grade(task: Task) -> Grade:
    """Accept a program that passes every test."""
    tests = parse_tests(task.ground_truth)
    program = MODES[task.options.mode].extract(task.response, tests.names())
    if program is None:
        verdict = Verdict.TRUNCATED if task.truncated else Verdict.NO_CODE
        return Grade(verdict, feedback=render_no_code(verdict, task.reveal))
    stamp = start_sandbox(task.options.sandbox)
    judge = Judge(tests.kind, task.options.mode, tests.expected)
    outcomes = run_tests(program, tests, judge)
    verdicts = [judge.verdict(i, outcome) for i, outcome in enumerate(outcomes)]
    failed = {verdict for verdict in verdicts if verdict not in (None, Verdict.ACCEPTED)}
    if not failed and None in verdicts:
        raise GraderFault("the sandbox left tests not run although none failed")
    worst = min(failed, key=list(_VERDICTS.values()).index, default=Verdict.ACCEPTED)
    failures = [
        Failure(i, worst, tests.kind, _lines(tests.inputs[i]), tests.expected[i], outcomes[i])
        for i, verdict in enumerate(verdicts)
        if verdict is worst is not Verdict.ACCEPTED
    ]
    view = View(
        program,
        tests.time_limit,
        reveal=task.reveal,
        rich=task.options.style == "rich",
        same_line=MODES[task.options.mode].same_line,
    )
    return Grade(
        worst,
        pred=str([clip(failure.output, _PRED_CHARS_PER_TEST) for failure in failures]),
        feedback=render(failures, view),
        acc=verdicts.count(Verdict.ACCEPTED) / len(verdicts),
        sandbox_insecure=bool(stamp["sandbox_insecure"]),
    )


_configured: SandboxConfig | None = None
_configuring = threading.Lock()


def start_sandbox(config: SandboxConfig | None) -> dict[str, int]:
    """Start this process's sandbox, unless it runs, and return its stamp.

    Raises:
        SandboxUnavailable: This machine cannot confine programs as configured.
    """
    global _configured
    with _configuring:
        # Configuring ends a pool that is running, so do it once.
        if config is not None and config != _configured:
            sandbox.configure(config)
            _configured = config
    return sandbox.level()
