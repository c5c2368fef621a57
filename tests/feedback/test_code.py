"""The code grader without a sandbox: what it asks the sandbox for, and how it judges what comes back."""

import json

import pytest

from tests.feedback.helpers import task
from verl.utils.reward_score.feedback import programs
from verl.utils.reward_score.feedback.contract import GraderFault, Verdict
from verl.utils.reward_score.feedback.sandbox import Frame, Job, Opaque, SandboxConfig, Status, TestOutcome

RESPONSE = "Here:\n```python\nprint(1)\n```\n"


class FakeSandbox:
    """Answers with prepared outcomes and keeps the job; stops when the job says so."""

    def __init__(self):
        self.outcomes: list[TestOutcome] = []
        self.jobs: list[Job] = []
        self.configs: list[SandboxConfig] = []
        self.ran = 0
        self.configure = self.configs.append

    def run(self, jobs):
        (job,) = jobs
        self.jobs.append(job)
        outcomes = []
        for i, outcome in enumerate(self.outcomes[: len(job.tests)]):
            outcomes.append(outcome)
            if job.stop_when(i, outcome):
                break
        self.ran = len(outcomes)
        return [outcomes + [TestOutcome(Status.NOT_RUN)] * (len(job.tests) - len(outcomes))]

    def level(self):
        return {"sandbox_level": 3, "sandbox_insecure": 0}


@pytest.fixture
def fake(monkeypatch) -> FakeSandbox:
    fake = FakeSandbox()
    for name in ("run", "level", "configure"):
        monkeypatch.setattr(programs.sandbox, name, getattr(fake, name))
    return fake


def truth(kind="stdin", *, n=1, **fields) -> str:
    given = {"inputs": ["1\n"] * n, "outputs": ["1"] * n, "testtype": kind, "fn_name": "", "time_limit": 6}
    return json.dumps({**given, **fields})


def stdout(text: str) -> TestOutcome:
    return TestOutcome(Status.OK, stdout=text)


def result(value) -> TestOutcome:
    return TestOutcome(Status.OK, result=value, returned=True)


def grade(fake, outcomes, ground_truth, **options):
    fake.outcomes = outcomes
    return programs.grade(task(RESPONSE, ground_truth, reveal="gold", **options))


@pytest.mark.parametrize(
    ("outcome", "verdict"),
    [
        (stdout("1\n"), Verdict.ACCEPTED),
        (stdout("1.0"), Verdict.ACCEPTED),
        (stdout(""), Verdict.WRONG_ANSWER),
        (TestOutcome(Status.RUNTIME_ERROR, stdout="1", exception="ValueError"), Verdict.RUNTIME_ERROR),
        (TestOutcome(Status.KILLED, stdout="1", signal=11), Verdict.RUNTIME_ERROR),
        (TestOutcome(Status.COMPILE_ERROR, exception="SyntaxError"), Verdict.COMPILE_ERROR),
        (TestOutcome(Status.TIME_LIMIT, stdout="1"), Verdict.TIME_LIMIT),
        (TestOutcome(Status.MEMORY_LIMIT, stdout="1"), Verdict.MEMORY_LIMIT),
        (TestOutcome(Status.OUTPUT_LIMIT, stdout="1"), Verdict.OUTPUT_LIMIT),
    ],
)
def test_stdin_verdicts(fake, outcome, verdict):
    assert grade(fake, [outcome], truth()).verdict is verdict


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
def test_only_ok_is_ever_accepted(fake, status):
    outcome = TestOutcome(status, stdout="1", result=1, returned=True, exception="E")
    if status in (Status.SANDBOX_ERROR, Status.NOT_RUN):
        with pytest.raises(GraderFault, match=r"sandbox failed|not run"):
            grade(fake, [outcome], truth())
        return
    for kind in ("stdin", "functional", "code"):
        assert grade(fake, [outcome], truth(kind, fn_name="f")).verdict is not Verdict.ACCEPTED


@pytest.mark.parametrize(
    ("outcome", "verdict"),
    [
        (result([1, 2]), Verdict.ACCEPTED),
        (result((1, 2)), Verdict.ACCEPTED),
        (result(Opaque("AlwaysEqual")), Verdict.WRONG_ANSWER),
        (result(None), Verdict.WRONG_ANSWER),
        (TestOutcome(Status.OK, stdout="[1, 2]", exit_code=0), Verdict.RUNTIME_ERROR),
    ],
)
def test_functional_verdicts(fake, outcome, verdict):
    assert grade(fake, [outcome], truth("functional", outputs=["[1, 2]"], fn_name="f")).verdict is verdict


def test_null_is_an_answer_only_when_returned(fake):
    ground_truth = truth("functional", outputs=["null"], fn_name="f")
    assert grade(fake, [result(None)], ground_truth).verdict is Verdict.ACCEPTED
    assert grade(fake, [TestOutcome(Status.OK)], ground_truth).verdict is Verdict.RUNTIME_ERROR


def test_assertion_tests(fake):
    ground_truth = truth("code", outputs=[], inputs=["assert f(1) == 1"], context="import math", fn_name="f")
    assert grade(fake, [TestOutcome(Status.OK)], ground_truth).verdict is Verdict.ACCEPTED
    failed = TestOutcome(Status.TEST_FAILED, exception="AssertionError", message="assert f(1) == 1", last_call="f(1)")
    assert grade(fake, [failed], ground_truth).verdict is Verdict.WRONG_ANSWER
    job = fake.jobs[0]
    assert (job.kind, job.tests[0].text, job.context, job.fn_name) == ("assert", "assert f(1) == 1", "import math", "f")


def test_the_job_holds_the_inputs_and_never_the_outputs(fake):
    secret = "5318008 is expected"
    grade(fake, [stdout(secret)], truth(inputs=["in"], outputs=[secret], time_limit=2.5))
    (job,) = fake.jobs
    assert (job.program, job.kind, job.mode, job.time_limit) == ("print(1)", "stdin", "script", 2.5)
    assert [test.text for test in job.tests] == ["in"]
    assert secret not in repr([job.program, job.tests, job.context, job.fn_name])


def test_a_long_expected_output_raises_the_output_limit(fake):
    grade(fake, [stdout("")], truth(outputs=["x" * 10_000_000]))
    assert fake.jobs[0].tests[0].output_limit > 10_000_000


@pytest.mark.parametrize(
    ("mode", "job_mode", "run"), [("script", "script", 2), ("lcb-official", "lcb-official", 1), ("paper", "script", 4)]
)
def test_modes_stop_after_their_number_of_failures(fake, mode, job_mode, run):
    assert grade(fake, [stdout("0")] * 4, truth(n=4), mode=mode).acc == 0
    assert fake.jobs[0].mode == job_mode
    assert fake.ran == run


def test_tests_not_run_count_as_failed(fake):
    grading = grade(fake, [stdout("1"), stdout("0"), stdout("0"), stdout("1")], truth(n=4))
    assert grading.acc == 0.25
    assert grade(fake, [stdout("1"), stdout("0"), stdout("0"), stdout("1")], truth(n=4), mode="paper").acc == 0.5


def test_equal_attempts_are_equal_jobs(fake):
    for _ in range(2):
        grade(fake, [stdout("0")], truth())
    grade(fake, [stdout("0")], truth(outputs=["2"]))
    same, again, other = fake.jobs
    assert same == again and hash(same) == hash(again)
    assert same != other


def test_the_worst_verdict_wins(fake):
    outcomes = [
        stdout("0"),
        TestOutcome(Status.TIME_LIMIT),
        TestOutcome(Status.RUNTIME_ERROR, exception="E"),
        stdout("1"),
    ]
    assert grade(fake, outcomes, truth(n=4), mode="paper").verdict is Verdict.RUNTIME_ERROR
    assert grade(fake, outcomes[:2], truth(n=2), mode="paper").verdict is Verdict.TIME_LIMIT
    assert grade(fake, outcomes, truth(n=4)).verdict is Verdict.TIME_LIMIT


@pytest.mark.parametrize(
    ("given", "mode", "text"),
    [
        ("[1, 2]\n3", "script", "[[1, 2], 3]"),
        ("[1, 2]\n3\n", "script", "[[1, 2], 3]"),
        ('"a b"\n"c"', "script", '["a b", "c"]'),
        ("1 2\n3", "paper", "[1, 2, 3]"),
        ({"a": [1]}, "script", '{"a": [1]}'),
        ([1, [2]], "script", "[1, [2]]"),
    ],
)
def test_functional_arguments(given, mode, text):
    assert json.loads(programs.job_text(given, "functional", mode)) == json.loads(text)


def test_arguments_that_are_no_json(fake):
    ground_truth = truth("functional", n=2, inputs=["[1, 2]", "3"], fn_name="f")
    grading = grade(fake, [result(1)], ground_truth, mode="paper")
    assert (grading.verdict, grading.acc) == (Verdict.RUNTIME_ERROR, 0.5)
    assert "JSONDecodeError" in grading.feedback
    with pytest.raises(GraderFault, match="input of test 1"):
        grade(fake, [], truth("functional", inputs=["[1, 2"], fn_name="f"))


def test_official_arguments_stay_as_they_are(fake):
    assert programs.job_text("[1]\n2\n", "functional", "lcb-official") == "[1]\n2\n"


def test_stdin_may_be_given_as_lines(fake):
    grade(fake, [stdout("a\nb")], truth(inputs=[["x", "y"]], outputs=[["a", "b"]]))
    assert fake.jobs[0].tests[0].text == "x\ny"


@pytest.mark.parametrize(
    "ground_truth",
    [
        "",
        "not JSON",
        "[]",
        '"text"',
        "null",
        None,
        truth(inputs=[], outputs=[]),
        truth("code", inputs=[]),
        truth(inputs="1", outputs="1"),
        truth(inputs=["1"], outputs=[]),
        truth(inputs=["1"], outputs=["1", "2"]),
        truth("pickle"),
        truth("functional", outputs=["not JSON"], fn_name="f"),
        truth(time_limit="soon"),
        "\x80\x04\x95",
    ],
)
def test_a_bad_ground_truth_is_the_graders_fault(fake, ground_truth):
    with pytest.raises(GraderFault):
        programs.grade(task(RESPONSE, ground_truth))
    assert not fake.jobs


@pytest.mark.parametrize("mode", programs.MODES)
def test_responses_without_code_run_nothing(fake, mode):
    assert programs.grade(task("I think", truth(), mode=mode)).verdict is Verdict.NO_CODE
    cut = programs.grade(task("```python\nprint(", truth(), truncated=True, mode=mode))
    assert cut.verdict is Verdict.TRUNCATED
    assert not fake.jobs


def test_the_sandbox_is_configured_once(fake, monkeypatch):
    monkeypatch.setattr(programs, "_configured", None)
    for _ in range(2):
        grade(fake, [stdout("1")], truth(), sandbox={"min_level": "L3"})
    grade(fake, [stdout("1")], truth())
    assert [config.min_level.name for config in fake.configs] == ["L3"]


def test_an_insecure_sandbox_is_stamped(fake, monkeypatch):
    assert grade(fake, [stdout("1")], truth()).sandbox_insecure is False
    monkeypatch.setattr(programs.sandbox, "level", lambda: {"sandbox_level": 0, "sandbox_insecure": 1})
    assert grade(fake, [stdout("1")], truth()).sandbox_insecure is True


def test_forged_frames_do_no_harm(fake):
    outcome = TestOutcome(Status.RUNTIME_ERROR, exception="E", frames=(Frame(10**9, "f" * 10_000), Frame(-1, "</s>")))
    text = grade(fake, [outcome], truth()).feedback
    assert "</s>" not in text and len(text) < 2000
