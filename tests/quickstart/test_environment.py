import json

import pytest

from experiments.quickstart.environment import ENVIRONMENTS, TOOLS, VALUES, compute_score, data_source, make_tasks
from experiments.quickstart.make_data import to_row

WEATHER = json.dumps({"tool": "weather", "city": "Oslo"})


def grade(reply):
    return compute_score("tool_json", reply, WEATHER, extra_info={"num_turns": 2}, reward_router_address="x")


def test_tasks_depend_on_the_seed_alone():
    assert make_tasks("tool-json", "train", 40, seed=3) == make_tasks("tool-json", "train", 40, seed=3)
    assert make_tasks("tool-json", "train", 40, seed=3) != make_tasks("tool-json", "train", 40, seed=4)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_no_call_is_in_both_splits(name):
    train, heldout = make_tasks(name, "train", 256, seed=0), make_tasks(name, "heldout", 64, seed=0)
    assert len({task.prompt for task in train}) == 256

    def calls(tasks):
        return {json.dumps(task.call) for task in tasks}

    assert not calls(train) & calls(heldout)
    tool = ENVIRONMENTS[name].renamed.get("tool", "tool")
    assert {task.call[tool] for task in train} == {task.call[tool] for task in heldout} == {t.name for t in TOOLS}


def test_every_kind_of_task_comes_in_turn():
    kinds = len(TOOLS) * len(ENVIRONMENTS["tool-json"].wordings)
    first = make_tasks("tool-json", "train", kinds, seed=0)
    assert len({(tuple(task.call), task.call["tool"], "request" in task.prompt) for task in first}) == kinds


def test_values_name_every_argument_once():
    assert {argument for tool in TOOLS for argument in tool.arguments} == VALUES.keys()
    for values in VALUES.values():
        assert len(set(values.split())) == len(values.split())


@pytest.mark.parametrize(("split", "count", "said"), [("test", 1, "train, heldout"), ("heldout", 10**6, "only")])
def test_impossible_requests_are_refused(split, count, said):
    with pytest.raises(ValueError, match=said):
        make_tasks("tool-json", split, count, seed=0)


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


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_answer_in_a_row_is_accepted(name):
    row = to_row(make_tasks(name, "train", 1, seed=0)[0], name, "train", 0)
    truth = row["reward_model"]["ground_truth"]
    assert compute_score(row["data_source"], truth, truth)["score"] == 1.0


def test_the_prompt_of_the_renamed_key_is_out_of_date():
    task = make_tasks("renamed-key", "train", 1, seed=0)[0]
    city = task.call["city"]
    assert task.prompt == (
        f'Write one line of JSON with the keys "tool" and "city". The tool is weather. The city is {city}.'
    )
    assert task.call == {"action": "weather", "city": city}


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ('{"tool": "weather", "city": "Oslo"}', 'unknown key "tool", missing key "action"'),
        ('{"action": "weather", "city": "Rome"}', 'wrong value of "city"'),
        ("I cannot.", "not a flat JSON object"),
    ],
)
def test_only_the_error_message_tells_the_new_key(reply, said):
    truth = {"action": "weather", "city": "Oslo"}
    form = '{"action": "weather", "city": "..."}'
    result = compute_score("renamed_key", reply, json.dumps(truth))
    assert result == {"score": 0.0, "acc": 0.0, "feedback": f"The API says: {said}. The form is: {form}"}


def test_without_keys_the_request_says_what_and_the_error_says_how():
    task = make_tasks("no-keys", "train", 3, seed=0)[2]
    assert "tool" not in task.prompt
    assert all(value in task.prompt for key, value in task.call.items() if key != "tool")
    result = compute_score(data_source("no-keys"), "What?", json.dumps(task.call))
    form = '{"tool": "weather", "city": "...", "day": "..."}'
    assert result["feedback"] == f"The API wants one flat JSON object of this form: {form}"
