"""`compute_score`: one contract for every dataset and every outcome."""

import json
import logging
from importlib import import_module

import pytest
from hypothesis import given
from hypothesis import strategies as st

import verl.utils.reward_score.feedback as feedback
from tests.feedback.helpers import shared_data
from verl.utils.reward_score.feedback.contract import Grade, GraderFault, Options, Reveal, Verdict, to_result
from verl.utils.reward_score.feedback.sandbox import Level, SandboxUnavailable

# A gold answer per data source, a right response, a wrong one and one without an answer.
SINGLE_ANSWER_TASKS = {
    "sciknoweval": ("B", "<answer>B</answer>", "<answer>A</answer>", "A"),
    "gpqa": ("B", r"\boxed{B}", r"\boxed{A}", "A"),
    "mmlu_pro": ("B", "the answer is (B)", "the answer is (A)", "A"),
    "math": ("12", r"\boxed{12}", r"\boxed{13}", "13"),
    "math500": ("12", r"\boxed{12}", r"\boxed{13}", "13"),
    "dapo_math": ("12", r"\boxed{12}", r"\boxed{13}", "13"),
    "gsm8k": ("12", r"\boxed{12}", r"\boxed{13}", "13"),
    "aime24": ("12", r"\boxed{12}", r"\boxed{13}", "13"),
    "aime25": ("12", r"\boxed{12}", r"\boxed{13}", "13"),
    "amc23": ("12", r"\boxed{12}", r"\boxed{13}", "13"),
    "tooluse": (
        '[{"Action": "find", "Action_Input": {"q": "gold"}}]',
        'Action: find\nAction Input: {"q": "gold"}',
        'Action: find\nAction Input: {"q": "x"}',
        "find x",
    ),
}
KEYS = {
    "score": float,
    "acc": float,
    "pred": str,
    "feedback": str,
    "verdict": str,
    "incorrect_format": int,
    "truncated": int,
    "timed_out": int,
    "grader_error": int,
    "comparison_failed": int,
    "sandbox_insecure": int,
}


def check_contract(result: dict):
    assert {key: type(value) for key, value in result.items()} == KEYS
    assert (result["feedback"] == "") is (result["verdict"] in ("accepted", "grader_error"))
    assert result["score"] == (result["verdict"] == "accepted")
    assert result["grader_error"] == (result["verdict"] == "grader_error")
    for value in result.values():
        str(value).encode("utf-8")


@pytest.mark.parametrize("source", SINGLE_ANSWER_TASKS)
@pytest.mark.parametrize("truncated", [False, True])
def test_single_answer_tasks(source, truncated):
    gold, right, wrong, missing = SINGLE_ANSWER_TASKS[source]
    extra_info = {"truncated": truncated, "num_turns": 2}
    results = [feedback.compute_score(source, text, gold, extra_info) for text in (right, wrong, missing, "")]
    results.append(feedback.compute_score(source, right, "", extra_info))
    for result in results:
        check_contract(result)
    without = "truncated" if truncated else "format_error"
    assert [r["verdict"] for r in results] == ["accepted", "wrong_answer", without, without, "grader_error"]
    assert {r["truncated"] for r in results} == {int(truncated)}


def test_every_data_source_is_tested():
    code = {"code", "livecodebench", "humanevalplus", "mbppplus", "codeforces", "code_elo"}
    assert feedback.DATA_SOURCES.keys() == SINGLE_ANSWER_TASKS.keys() | code


@pytest.mark.parametrize("verdict", Verdict)
def test_every_verdict_flattens_to_the_same_keys(verdict):
    silent = verdict in (Verdict.ACCEPTED, Verdict.GRADER_ERROR)
    check_contract(to_result(Grade(verdict, pred="\x00p", feedback="" if silent else "why"), truncated=False))


@pytest.mark.parametrize(
    ("source", "response", "pred"),
    [
        ("tooluse", 'Action: say\nAction Input: {"text": "\\ud83d"}', 'say {"text": "\\ud83d"}'),
        ("tooluse", "Action: \udfff\nAction Input: {}", "\\udfff {}"),
        ("math", "\\boxed{\ud83d}", "\\ud83d"),
        ("math", "\\boxed{\U0001f600}", "\U0001f600"),
    ],
)
@pytest.mark.parametrize("reveal", ["form", "gold"])
def test_half_a_character_can_be_written(source, response, pred, reveal):
    gold = '[{"Action": "say", "Action_Input": "{\\"text\\": \\"\\\\ude00\\"}"}]' if source == "tooluse" else "12"
    result = feedback.compute_score(source, response, gold, reveal=reveal)
    check_contract(result)
    assert result["pred"] == pred and result["verdict"] == "wrong_answer"


def test_feedback_and_verdict_must_agree():
    with pytest.raises(AssertionError):
        Grade(Verdict.ACCEPTED, feedback="well done")
    with pytest.raises(AssertionError):
        Grade(Verdict.WRONG_ANSWER)


@pytest.mark.parametrize("reveal", [None, "none", "form"])
@pytest.mark.parametrize("source", SINGLE_ANSWER_TASKS)
def test_by_default_feedback_does_not_depend_on_the_gold_answer(source, reveal):
    gold, _, wrong, missing = SINGLE_ANSWER_TASKS[source]
    other = gold.replace("B", "C").replace("12", "77").replace("gold", "other")
    assert other != gold
    for response in (wrong, missing):
        texts = [feedback.compute_score(source, response, g, reveal=reveal)["feedback"] for g in (gold, other)]
        assert texts[0] == texts[1] != ""


@pytest.mark.parametrize("source", ["math", "tooluse"])
def test_the_gold_answer_shows_only_when_asked_for(source):
    gold, _, wrong, _ = SINGLE_ANSWER_TASKS[source]
    secret = "12" if source == "math" else "gold"
    shown = {
        level.value: secret in feedback.compute_score(source, wrong, gold, reveal=level.value)["feedback"]
        for level in Reveal
    }
    assert shown == {"none": False, "form": False, "mismatch": False, "gold": True}


def test_no_shipped_gold_call_shows_by_default():
    for record in shared_data("tooluse/test_head.jsonl"):
        gold = [json.loads(call["Action_Input"]) | {"": call["Action"]} for call in json.loads(record["answer"])]
        secrets = {str(value) for call in gold for value in call.values() if len(str(value)) > 3}
        for response in ("Action: x\nAction Input: {}", 'Action: x\nAction Input: {"y": 1', "no call"):
            text = feedback.compute_score("tooluse", response, record["answer"])["feedback"]
            assert text and not [secret for secret in secrets if secret in text]


def test_a_fault_is_retried_once(monkeypatch):
    calls = []

    def flaky(task):
        calls.append(task)
        if len(calls) == 1:
            raise GraderFault("helper lost")
        return Grade(Verdict.ACCEPTED)

    monkeypatch.setitem(feedback.DATA_SOURCES, "math", feedback.DataSource(flaky, Reveal.FORM))
    assert feedback.compute_score("math", "r", "g")["verdict"] == "accepted"
    assert len(calls) == 2


@pytest.mark.parametrize("fault", [GraderFault("broken"), ZeroDivisionError(), RecursionError(), MemoryError()])
def test_a_second_fault_is_no_model_fault(monkeypatch, caplog, fault):
    calls = []

    def broken(task):
        calls.append(task)
        raise fault

    monkeypatch.setitem(feedback.DATA_SOURCES, "math", feedback.DataSource(broken, Reveal.FORM))
    with caplog.at_level(logging.WARNING):
        result = feedback.compute_score("math", "r", "g")
    check_contract(result)
    assert result["grader_error"] == 1 and len(calls) == 2
    assert len(caplog.records) == 2


def test_a_machine_without_a_sandbox_stops_training(monkeypatch):
    def refuse(task):
        raise SandboxUnavailable("no Landlock")

    monkeypatch.setitem(feedback.DATA_SOURCES, "code", feedback.DataSource(refuse, Reveal.GOLD))
    with pytest.raises(SandboxUnavailable):
        feedback.compute_score("code", "r", "g")


def test_unknown_data_sources_are_named_with_the_known_ones():
    feedback.check_data_sources(["math", "tooluse", "math"], mode="script")
    with pytest.raises(ValueError, match=r"No grader for data_source 'maths'\. Known: sciknoweval, .*code_elo"):
        feedback.check_data_sources(["math", "maths"])
    with pytest.raises(ValueError, match="No grader"):
        feedback.compute_score("maths", "r", "g")
    with pytest.raises(ValueError, match="fast"):
        feedback.check_data_sources(["math"], mode="fast")


def test_the_sandbox_is_tried_before_training_exactly_if_there_is_code(monkeypatch):
    def refuse():
        raise SandboxUnavailable("no Landlock")

    monkeypatch.setattr(feedback.programs.sandbox, "level", refuse)
    feedback.check_data_sources(["math", "tooluse"])
    with pytest.raises(SandboxUnavailable):
        feedback.check_data_sources(["math", "livecodebench"])


def test_options_are_checked():
    for kwargs, message in [
        ({"mode": "fast"}, "reward_kwargs.mode: 'fast' is unknown, expected one of script, lcb-official, paper"),
        ({"style": "x"}, "rich, reference"),
        ({"reveal": "all"}, "none, form, mismatch, gold"),
        ({"modes": "script"}, "'modes' is unknown"),
        ({"sandbox": {"level": "L2"}}, "reward_kwargs.sandbox: 'level' is unknown"),
        ({"sandbox": {"min_level": "L9"}}, "L0, L1, L2, L3"),
        ({"sandbox": {"min_level": "L0"}}, "allow_insecure"),
    ]:
        with pytest.raises(ValueError, match=message):
            feedback.compute_score("math", r"\boxed{1}", "1", **kwargs)


def test_options_from_a_hydra_config():
    from omegaconf import OmegaConf

    given = OmegaConf.create({"mode": "paper", "reveal": "form", "sandbox": {"min_level": "L3", "workers": 2}})
    options = Options.from_kwargs(dict(given))
    assert (options.mode, options.reveal) == ("paper", Reveal.FORM)
    assert (options.sandbox.min_level, options.sandbox.workers) == (Level.L3, 2)
    assert Options.from_kwargs({"mode": None, "reveal": None, "sandbox": None}) == Options()


def test_verls_own_arguments_are_accepted():
    result = feedback.compute_score(
        data_source="math",
        solution_str=r"\boxed{1}",
        ground_truth="1",
        extra_info=None,
        reward_router_address="host:1",
        reward_model_tokenizer=None,
    )
    assert result["score"] == 1


@given(st.sampled_from(sorted(SINGLE_ANSWER_TASKS)), st.text())
def test_arbitrary_text_keeps_the_contract(source, text):
    check_contract(feedback.compute_score(source, text, SINGLE_ANSWER_TASKS[source][0]))


def test_verl_may_load_the_package_by_file_path():
    load = import_module("verl.utils.import_utils").load_extern_object
    compute_score = load(feedback.__file__, "compute_score")
    assert compute_score("gsm8k", r"\boxed{1}", "1")["score"] == 1
