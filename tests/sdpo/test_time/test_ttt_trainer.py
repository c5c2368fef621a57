"""The log of attempts as an extension of SDPO's trainer; tests/e2e runs it as a whole."""

import logging

import pytest
import torch

from tests.sdpo.test_time.fakes import QUESTION, reward_function
from verl.sdpo.config import TEST_TIME_MODE
from verl.sdpo.context import Rollout
from verl.sdpo.teacher_rows import Sample
from verl.sdpo.test_time import ttt_trainer as module
from verl.sdpo.test_time.grading import grade_question
from verl.sdpo.test_time.log import SUFFIX, AttemptLog
from verl.sdpo.test_time.question_search import QuestionSearch
from verl.sdpo.trainer.hooks import Update
from verl.sdpo.trainer.trainers import SDPO
from verl.trainer.ppo.v1 import get_trainer_cls

PROMPT = "What is it?"


class Run:
    """The part of a trainer that the extension uses."""

    def __init__(self, checkpoint: int):
        self.global_steps, self.total_training_steps = checkpoint, 172

    def end_after_this_step(self, *, save: bool) -> None:
        assert not save
        self.total_training_steps = self.global_steps


@pytest.fixture
def recorder(tmp_path, monkeypatch):
    """`recorder(checkpoint)` for a budget of 6 attempts, as a new process would make it."""

    def open_search(config):
        search = object.__new__(QuestionSearch)
        search.log = AttemptLog(tmp_path / f"run{SUFFIX}", {"budget": 6, **QUESTION.header()})
        return search

    monkeypatch.setattr(module, "QuestionSearch", open_search)

    def make(checkpoint=0):
        made = module.AttemptRecorder({})
        made.on_start(Run(checkpoint))
        return made

    return make


def is_updated(recorder, responses) -> bool:
    """Make one step with these responses by key, of which "pad..." are padding; returns True if it has an update."""
    samples = [
        Sample(
            Rollout(
                "q",
                int(key.split("_")[1]),
                QUESTION.messages,
                response,
                0.0,
                reward=grade_question(reward_function, QUESTION, response, truncated=False),
                is_padding=key.startswith("pad"),
            ),
            prompt_ids=torch.zeros(len(PROMPT)),
            response_ids=torch.zeros(len(response)),
        )
        for key, response in responses.items()
    ]
    recorder.run.global_steps += 1
    update = Update(recorder.run.global_steps, None, {}, {}, lambda batch: samples)
    recorder.before_update(update)
    return not update.is_skipped


def test_attempts_are_logged_in_their_order_before_the_update(recorder):
    made = recorder()
    assert is_updated(made, {"q_10_0": "ten", "q_2_0": "two!", "pad_0_0": "fill", "q_0_0": "zero"})
    assert [record["response"] for record in made.search.log.records] == ["zero", "two!", "ten"]
    assert {record["step"] for record in made.search.log.records} == {1}
    lengths = [(record["prompt_tokens"], record["response_tokens"]) for record in made.search.log.records]
    assert lengths == [(11, 4), (11, 4), (11, 3)]
    assert made.search.log.records[0]["metrics"]["feedback"] == "zero fails public tests"
    assert made.run.total_training_steps == 172


def test_a_confirmed_attempt_ends_the_training_without_an_update(recorder, caplog):
    made = recorder()
    assert is_updated(made, {"q_0_0": "wrong", "q_1_0": "cheat"})
    with caplog.at_level(logging.WARNING):
        assert not is_updated(made, {"q_0_0": "wrong", "q_1_0": "right", "q_2_0": "right"})
    assert made.run.total_training_steps == 2
    assert len(made.search.log.records) == 4
    assert "q_7: SOLVED by attempt 4" in caplog.text


def test_the_budget_ends_the_training_too(recorder, caplog):
    made = recorder()
    assert [is_updated(made, {f"q_{i}_0": "wrong" for i in range(4)}) for _ in range(2)] == [True, False]
    assert made.run.total_training_steps == 2
    assert "not solved within the budget of 6 attempts" in caplog.text


def test_a_resume_sets_aside_what_came_after_the_checkpoint(recorder, caplog):
    first = recorder()
    for _ in range(2):
        is_updated(first, {"q_0_0": "wrong", "q_1_0": "wrong"})
    first.search.log.close()
    resumed = recorder(checkpoint=1)
    assert "moved 2 attempts after step 1 out of" in caplog.text
    assert resumed.run.total_training_steps == 172
    is_updated(resumed, {"q_0_0": "wrong", "q_1_0": "right"})
    assert [record["step"] for record in resumed.search.log.records] == [1, 1, 2, 2]
    resumed.search.log.close()
    solved = recorder(checkpoint=2)
    assert solved.run.total_training_steps == solved.run.global_steps == 2


def test_it_is_sdpos_trainer_under_a_mode_of_its_own():
    assert get_trainer_cls(TEST_TIME_MODE) is module.QuestionTrainer
    assert issubclass(module.QuestionTrainer, get_trainer_cls("sdpo"))
    assert module.QuestionTrainer.extension_types == (module.AttemptRecorder, *SDPO)
