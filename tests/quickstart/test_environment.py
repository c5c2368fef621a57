import json

import pytest

from experiments.quickstart.environment import TOOLS, VALUES, WORDINGS, compute_score, make_tasks
from experiments.quickstart.make_data import to_row

WEATHER = json.dumps({"tool": "weather", "city": "Oslo"})


def grade(reply):
    return compute_score("tool_json", reply, WEATHER, extra_info={"num_turns": 2}, reward_router_address="x")


def test_tasks_depend_on_the_seed_alone():
    assert make_tasks("train", 40, seed=3) == make_tasks("train", 40, seed=3)
    assert make_tasks("train", 40, seed=3) != make_tasks("train", 40, seed=4)


def test_no_call_is_in_both_splits():
    train, heldout = make_tasks("train", 256, seed=0), make_tasks("heldout", 64, seed=0)
    assert len({task.prompt for task in train}) == 256

    def calls(tasks):
        return {json.dumps(task.call) for task in tasks}

    assert not calls(train) & calls(heldout)
    assert {task.call["tool"] for task in train} == {task.call["tool"] for task in heldout} == {t.name for t in TOOLS}


def test_every_kind_of_task_comes_in_turn():
    kinds = len(TOOLS) * len(WORDINGS)
    first = make_tasks("train", kinds, seed=0)
    assert len({(tuple(task.call), task.call["tool"], "request" in task.prompt) for task in first}) == kinds


def test_values_name_every_argument_once():
    assert {argument for tool in TOOLS for argument in tool.arguments} == VALUES.keys()
    for values in VALUES.values():
        assert len(set(values.split())) == len(values.split())


@pytest.mark.parametrize(("split", "count", "said"), [("test", 1, "train, heldout"), ("heldout", 10**6, "only")])
def test_impossible_requests_are_refused(split, count, said):
    with pytest.raises(ValueError, match=said):
        make_tasks(split, count, seed=0)


@pytest.mark.parametrize(
    "reply",
    [
        '{"tool": "weather", "city": "Oslo"}',
        'Sure:\n```json\n{\n  "city": "Oslo",\n  "tool": "weather"\n}\n```\nAnything {else}?',
    ],
)
def test_right_replies_get_no_feedback(reply):
    assert grade(reply) == {"score": 1.0, "acc": 1.0, "feedback": ""}


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("", "no flat JSON object"),
        ('{"tool": "weather", "city": "Os', "no flat JSON object"),
        ('{"tool": {"city": "Oslo"', "no flat JSON object"),
        ('{"tool": weather}', "not valid: Expecting value in line 1, column 10"),
        ("{}", 'The key "tool" is missing. The key "city" is missing.'),
        ('{"tool": "weather", "city": "Oslo", "day": 1}', 'The key "day" was not asked for.'),
        ('{"tool": "weather", "city": "Rome"}', 'The value of "city" is "Rome", but it should be "Oslo".'),
        ('{"tool": "weather", "city": ["Oslo"]}', 'The value of "city" is ["Oslo"], but it should be "Oslo".'),
        ('{"tool": "x", "city": "Oslo"} {"tool": "weather", "city": "Oslo"}', 'The value of "tool" is "x"'),
    ],
)
def test_wrong_replies_are_told_what_is_wrong(reply, said):
    result = grade(reply)
    assert result["score"] == result["acc"] == 0.0
    assert said in result["feedback"]


def test_the_answer_in_a_row_is_accepted():
    row = to_row(make_tasks("train", 1, seed=0)[0], "train", 0)
    truth = row["reward_model"]["ground_truth"]
    assert compute_score(row["data_source"], truth, truth)["score"] == 1.0
