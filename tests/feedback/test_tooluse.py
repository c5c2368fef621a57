import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.feedback.helpers import shared_data, task
from verl.utils.reward_score.feedback import tooluse
from verl.utils.reward_score.feedback.contract import GraderFault, Verdict
from verl.utils.reward_score.feedback.tooluse import same

AC, WA, FE = Verdict.ACCEPTED, Verdict.WRONG_ANSWER, Verdict.FORMAT_ERROR

NESTED = '[{"Action": "save", "Action_Input": {"user": {"name": "x", "tags": ["{", "}"]}, "on": true}}]'
OPTIONAL = (
    r'[{"Action": "get", "Action_Input": "{\"id\": 1}"}, {"Action": "[Optional]set-it.now", "Action_Input": "{}"}]'
)
TWICE = (
    '[{"Action": "find", "Action_Input": {"q": "a", "n": 1}}, {"Action": "find", "Action_Input": {"q": "b", "n": 1}}]'
)


def gold_response(ground_truth: str) -> str:
    """The response that makes exactly the gold calls."""
    lines = ["Thought: I know what to do."]
    for record in json.loads(ground_truth):
        arguments = record["Action_Input"]
        arguments = arguments if isinstance(arguments, str) else json.dumps(arguments)
        lines += [f"Action: {record['Action']}", f"Action Input: {arguments}"]
    return "\n".join(lines)


@pytest.mark.parametrize("gold", [NESTED, OPTIONAL, TWICE])
def test_gold_answers_are_accepted(gold):
    assert tooluse.grade(task(gold_response(gold), gold)).verdict is AC
    assert tooluse.grade(task(gold_response(gold), json.loads(gold))).verdict is AC


def test_every_shipped_gold_answer_is_accepted():
    records = shared_data("tooluse/test_head.jsonl")
    assert [
        r["idx"] for r in records if tooluse.grade(task(gold_response(r["answer"]), r["answer"])).verdict is not AC
    ] == []
    assert len(records) == 34


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        ('Action: find\nAction Input: {"q": "a", "n": 1}\nAction: find\nAction Input: {"n": 1, "q": "b"}', AC),
        (
            'Action: find\nAction Input: {\n"q": "a",\n"n": 1.0}\n\nAction: find\n\nAction Input: {"n": 1, "q": "b"}',
            AC,
        ),
        ("<think>Action: x\nAction Input: {}</think>" + gold_response(TWICE), AC),
        ('Action: find\nAction Input: {"q": "b", "n": 1}\nAction: find\nAction Input: {"q": "a", "n": 1}', WA),
        ('Action: find\nAction Input: {"q": "a", "n": 1}', WA),
        (gold_response(TWICE) + '\nAction: find\nAction Input: {"q": "b", "n": 1}', WA),
        ('Action: find\nAction Input: {"q": "a", "n": true}\nAction: find\nAction Input: {"q": "b", "n": 1}', WA),
        ('Action: find\nAction Input: {"q": "a", "n": "1"}\nAction: find\nAction Input: {"q": "b", "n": 1}', WA),
        ('Action: find\nAction Input: {"q": "a"}\nAction: find\nAction Input: {"q": "b", "n": 1}', WA),
        ('Action: find\nAction Input: {"q": "a", "n": 1, "z": 0}\nAction: find\nAction Input: {"q": "b", "n": 1}', WA),
        ('Action: seek\nAction Input: {"q": "a", "n": 1}\nAction: find\nAction Input: {"q": "b", "n": 1}', WA),
        (
            'Action: find\nAction Input: ```json\n{"q": "a", "n": 1}\n```\n'
            'Action: find\nAction Input:\n````\n  {"q": "b", "n": 1}````\n',
            AC,
        ),
        (
            'Action: find\nAction Input: ```json\n{"q": "a", "n": 2}\n```\n'
            'Action: find\nAction Input: {"q": "b", "n": 1}',
            WA,
        ),
        ('Action: find\nAction Input: ```json\n{"q": "a", "n": 1}\n', FE),
        ('Action: find\nAction Input: ```json\n{"q": "a", "n": 1}\n{"q": "c"}\n```', FE),
        ('Action: find\nAction Input: ```json\n{"q": "a", "n": 1}\n``` or so', FE),
        ('Action: find\nAction Input: ```python\n{"q": "a", "n": 1}\n```', FE),
        ('<think>\nAction: find\nAction Input: {"q": "a", "n": 1}', FE),
        ('Action: find\nAction Input: {"q": "a", "n": 1} or {"q": "c"}', FE),
        ("Action: find\nAction Input: [1]", FE),
        ('Action: find\nAction Input: {"q": ', FE),
        ('Action: find\nAction Input: {"q": NaN}', FE),
        ('Action: find\nAction Input: {"q": ' + "1" * 100_000 + "}", FE),
        ("Action: find\nAction Input: " + '{"a":' * 100_000, FE),
        ("Action: find", FE),
        ("Action:\nAction Input: {}", FE),
        ("I would call find", FE),
        ("", FE),
    ],
)
def test_responses(response, verdict):
    assert tooluse.grade(task(response, TWICE)).verdict is verdict


@pytest.mark.parametrize("text", ["use </think> to close", "<think>", "<think>x</think>", "a</think>\nb"])
def test_an_argument_may_quote_the_tags_of_reasoning(text):
    gold = json.dumps([{"Action": "say", "Action_Input": {"text": text}}])
    assert tooluse.grade(task(f"<think>hm</think>{gold_response(gold)}", gold)).verdict is AC
    assert tooluse.grade(task(gold_response(gold), gold)).verdict is AC


def test_an_action_inside_a_json_string_is_no_call():
    gold = json.dumps([{"Action": "say", "Action_Input": {"text": "x\nAction: y\nAction Input: {}"}}])
    assert tooluse.grade(task(gold_response(gold), gold)).verdict is AC


@pytest.mark.parametrize(
    "gold", ["", "-", "[]", "{}", None, 3, '[{"Action": "x"}]', '[{"Action": "x", "Action_Input": "no"}]', "[1]"]
)
def test_an_unusable_ground_truth_is_the_graders_fault(gold):
    with pytest.raises(GraderFault):
        tooluse.grade(task("Action: x\nAction Input: {}", gold))


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        (1, 1.0, True),
        (1, True, False),
        (0, False, False),
        (None, None, True),
        ("1", 1, False),
        ([1, [True]], [1, [True]], True),
        ([1], [1, 2], False),
        ({"a": [1]}, {"a": [True]}, False),
        ({"a": 1}, {"b": 1}, False),
        ({}, [], False),
    ],
)
def test_json_equality(a, b, equal):
    assert same(a, b) is same(b, a) is equal


@pytest.mark.parametrize(
    ("response", "feedback"),
    [
        ("Action: seek\nAction Input: {}", "Call 1: seek is not the right tool."),
        ('Action: find\nAction Input: {"w": 1}', "Call 1 (find): unexpected argument 'w'."),
        ('Action: find\nAction Input: {"q": "a"}', "Call 1 (find): an argument is missing."),
        ('Action: find\nAction Input: {"q": "z", "n": 1}', "Call 1 (find): wrong value of 'q': \"z\""),
        ('Action: find\nAction Input: {"q": "a", "n": 1}', "1 call(s) were made, which is too few."),
    ],
)
def test_the_first_mismatch_is_named(response, feedback):
    assert tooluse.grade(task(response, TWICE, reveal="form")).feedback == "Wrong Answer"
    assert tooluse.grade(task(response, TWICE, reveal="mismatch")).feedback == f"Wrong Answer\n{feedback}"
    gold = 'Expected calls:\nfind {"q": "a", "n": 1}\nfind {"q": "b", "n": 1}'
    assert tooluse.grade(task(response, TWICE, reveal="gold")).feedback == f"Wrong Answer\n{feedback}\n{gold}"


def test_a_format_error_says_where():
    grade = tooluse.grade(task('Action: find\nAction Input: {"q": "a" "n": 1}', TWICE))
    assert grade.feedback == (
        "Incorrect Format\nCall 1: the action input is not valid JSON: Expecting ',' delimiter at '\"n\": 1}'. "
        + tooluse.HOW
    )


CALLS = st.lists(
    st.fixed_dictionaries(
        {
            "Action": st.from_regex(r"\A[\w\[\].-]+\Z"),
            "Action_Input": st.dictionaries(
                st.text(),
                st.recursive(
                    st.none() | st.booleans() | st.integers() | st.text(),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
                    max_leaves=5,
                ),
                max_size=4,
            ),
        }
    ),
    min_size=1,
    max_size=3,
)


# A busy machine is no fault of the strategies.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@PATIENT
@given(CALLS, CALLS)
def test_calls_are_accepted_exactly_when_they_are_the_gold_calls(calls, others):
    gold = json.dumps(calls)
    assert tooluse.grade(task(gold_response(gold), gold)).verdict is AC
    # In canonical JSON text true and 1, or "1" and 1, differ; there are no floats here.
    different = json.dumps(calls, sort_keys=True) != json.dumps(others, sort_keys=True)
    assert (tooluse.grade(task(gold_response(json.dumps(others)), gold)).verdict is WA) is different


@PATIENT
@given(st.text() | st.text(alphabet='Action Input:{}[]",\n', max_size=200))
def test_arbitrary_text_is_never_accepted(text):
    gold = '[{"Action": "a tool that chance does not write", "Action_Input": {}}]'
    assert tooluse.grade(task(text, gold)).verdict in (WA, FE)
    assert tooluse.grade(task("Action: x\nAction Input: " + text, gold)).verdict in (WA, FE)
