"""Additions of the test-time trainer to the trainer it is put before; tests/e2e runs it as a whole."""

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
from verl.trainer.ppo.v1 import get_trainer_cls

PROMPT = "What is it?"


class Trainer:
    """As much of verl's trainer as is called: updates are counted, checkpoints are of `step`."""

    def __init__(self, config):
        self.config, self.global_steps, self.total_training_steps = config, 0, 172
        self.updates: list[int] = []
        self.samples: list[Sample] = []

    def _samples(self, batch):
        return self.samples

    def _load_checkpoint(self):
        self.global_steps = self.config["checkpoint"]

    def _update_actor(self, batch, metrics):
        self.updates.append(self.global_steps)
        return "updated"


class SearchingTrainer(module.SearchMixin, Trainer):
    pass


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    """`trainer(checkpoint)` for a budget of 6 attempts, as a new process would make it."""

    def open_search(config):
        search = object.__new__(QuestionSearch)
        search.log = AttemptLog(tmp_path / f"run{SUFFIX}", {"budget": 6, **QUESTION.header()})
        return search

    monkeypatch.setattr(module, "QuestionSearch", open_search)

    def make(checkpoint=0):
        made = SearchingTrainer({"checkpoint": checkpoint})
        made._load_checkpoint()
        return made

    return make


def make_step(trainer, responses):
    """One step with these responses by key, of which "pad..." are padding; returns what the update returned."""

    trainer.samples = [
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
    trainer.global_steps += 1
    return trainer._update_actor(None, {})


def test_attempts_are_logged_in_their_order_before_the_update(trainer, monkeypatch):
    search = trainer()
    assert make_step(search, {"q_10_0": "ten", "q_2_0": "two!", "pad_0_0": "fill", "q_0_0": "zero"}) == "updated"
    assert [record["response"] for record in search.search.log.records] == ["zero", "two!", "ten"]
    assert {record["step"] for record in search.search.log.records} == {1}
    lengths = [(record["prompt_tokens"], record["response_tokens"]) for record in search.search.log.records]
    assert lengths == [(11, 4), (11, 4), (11, 3)]
    assert search.search.log.records[0]["metrics"]["feedback"] == "zero fails public tests"
    assert (search.updates, search.total_training_steps) == ([1], 172)


def test_a_confirmed_attempt_ends_the_training_without_an_update(trainer, monkeypatch, caplog):
    search = trainer()
    make_step(search, {"q_0_0": "wrong", "q_1_0": "cheat"})
    with caplog.at_level(logging.WARNING):
        make_step(search, {"q_0_0": "wrong", "q_1_0": "right", "q_2_0": "right"})
    assert (search.updates, search.total_training_steps) == ([1], 2)
    assert len(search.search.log.records) == 4
    assert "q_7: SOLVED by attempt 4" in caplog.text


def test_the_budget_ends_the_training_too(trainer, monkeypatch, caplog):
    search = trainer()
    for _ in range(2):
        make_step(search, {f"q_{i}_0": "wrong" for i in range(4)})
    assert (search.updates, search.total_training_steps) == ([1], 2)
    assert "not solved within the budget of 6 attempts" in caplog.text


def test_a_resume_sets_aside_what_came_after_the_checkpoint(trainer, monkeypatch, caplog):
    first = trainer()
    for _ in range(2):
        make_step(first, {"q_0_0": "wrong", "q_1_0": "wrong"})
    first.search.log.close()
    resumed = trainer(checkpoint=1)
    assert "moved 2 attempts after step 1 out of" in caplog.text
    assert resumed.total_training_steps == 172
    make_step(resumed, {"q_0_0": "wrong", "q_1_0": "right"})
    assert [record["step"] for record in resumed.search.log.records] == [1, 1, 2, 2]
    resumed.search.log.close()
    solved = trainer(checkpoint=2)
    assert solved.total_training_steps == solved.global_steps == 2


def test_it_is_sdpos_trainer_under_a_mode_of_its_own():
    assert get_trainer_cls(TEST_TIME_MODE) is module.QuestionTrainer
    assert module.QuestionTrainer.__mro__[2] is get_trainer_cls("sdpo")
