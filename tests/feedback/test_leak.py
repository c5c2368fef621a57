"""By default no gold answer reaches the teacher: the whole rendered prompt is searched for it."""

import json

import pytest

from tests.sdpo.rollouts import build
from verl.sdpo.context import Rollout
from verl.utils.reward_score.feedback import compute_score

GOLD_CALL = json.dumps([{"Action": "getWeather", "Action_Input": json.dumps({"city": "Xanadu-7341"})}])
CALL = 'Thought: x\nAction: getWeather\nAction Input: {"city": "Rome"}'


def teacher_prompt(data_source: str, response: str, ground_truth: str, **options) -> str:
    result = compute_score(data_source, response, ground_truth, {"problem": "The question."}, **options)
    assert result["score"] == 0.0
    assert result["feedback"]
    messages = [{"role": "user", "content": "The question."}]
    rollout = Rollout("group", 0, messages, response, result["score"], result)
    (prompt,) = build([rollout])
    assert result["feedback"] in prompt.messages[-1]["content"]
    return prompt.messages[-1]["content"]


@pytest.mark.parametrize(
    ("data_source", "response", "ground_truth", "gold"),
    [
        ("tooluse", CALL, GOLD_CALL, "Xanadu-7341"),
        ("tooluse", "no call at all", GOLD_CALL, "Xanadu-7341"),
        ("math500", r"It is \boxed{5}.", "73419", "73419"),
        ("math500", "no box", "73419", "73419"),
    ],
)
def test_gold_answer_stays_out_of_the_teacher_prompt(data_source, response, ground_truth, gold):
    assert gold not in teacher_prompt(data_source, response, ground_truth)


@pytest.mark.parametrize("letter", "ABCD")
def test_multiple_choice_feedback_is_the_same_for_every_gold_letter(letter):
    """A letter occurs in any text, so the prompts are compared instead of searched."""
    wrong = "<answer>E</answer>"
    assert teacher_prompt("sciknoweval", wrong, letter) == teacher_prompt("sciknoweval", wrong, "A")


def test_gold_answer_is_shown_when_asked_for():
    assert "Xanadu-7341" in teacher_prompt("tooluse", CALL, GOLD_CALL, reveal="gold")
