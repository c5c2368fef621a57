"""Which prompts the teacher is asked, and what is made of its answers; tests/e2e asks vLLM."""

import asyncio
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from omegaconf import OmegaConf

from tests.sdpo.trainer import test_trainer
from tests.sdpo.trainer.test_trainer import Queue, entry
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop
from verl.sdpo.trainer.rollout import TeacherAgentLoop
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

ADAPTER = "verl.sdpo.trainer.teacher_eval"


class ValQueue(Queue):
    """A queue with a partition for validation, and what a question consists of."""

    asked: dict

    def kv_batch_get(self, keys, partition_id, select_fields):
        if partition_id == "val":
            return {"rm_scores": torch.nested.as_nested_tensor([torch.tensor([0.0, 1.0])] * 3, layout=torch.jagged)}
        if "data_source" in select_fields:
            return {name: [f"{name} of {key}" for key in keys] for name in select_fields}
        return super().kv_batch_get(keys, partition_id, select_fields)

    def kv_batch_put(self, keys, partition_id, fields=None, tags=None):
        if partition_id == "val":
            self.registered = keys, tags
            return None
        return super().kv_batch_put(keys, partition_id, fields)

    def kv_clear(self, keys, partition_id):
        self.cleared = keys, partition_id


queue, trainer = test_trainer.queue, test_trainer.trainer


@pytest.fixture
def asked(trainer, monkeypatch):
    """The trainer on a batch of two questions; question 0 is solved by one of two, question 1 by none and mute."""
    held = ValQueue()
    for module in ("samples", "trainer", "teacher_eval"):
        monkeypatch.setattr(f"verl.sdpo.trainer.{module}.tq", held)
    held.samples = {
        "0_0_0": entry("0", "four", 1.0),
        "0_1_0": entry("0", "five", 0.0),
        "0_2_0": entry("0", "six", 0.0),
        "1_0_0": entry("1", "x", 0.0),
    }
    trainer.queue, trainer.val_dataset = held, [None] * 10
    trainer.config = OmegaConf.create(
        {"insight": {"teacher_eval_freq": 5}, "actor_rollout_ref": {"rollout": {"val_kwargs": {"n": 1}}}}
    )
    trainer.agent_loop_manager = SimpleNamespace(generate_sequences=lambda batch: setattr(held, "asked", batch))
    trainer.replay_buffer = SimpleNamespace(
        sample=lambda global_steps, partition_id, batch_size: (SimpleNamespace(keys=["a", "b"][:batch_size]), {})
    )
    return trainer


def test_the_teacher_answers_the_prompts_that_teach(asked):
    asked._answer = mock.Mock(return_value=[1.0, 0.0])
    metrics = asked._evaluate_teacher(asked.queue.batch(), 5)
    columns, step = asked._answer.call_args.args
    assert step == 5
    assert [messages[-1]["content"] for messages in columns["raw_prompt"]] == ["0|right: four"] * 2
    assert columns["data_source"] == ["data_source of 0_1_0", "data_source of 0_2_0"]
    assert metrics == {
        "self_distillation/teacher_accuracy": 0.5,
        "self_distillation/teacher_accuracy/student": pytest.approx(1 / 3),
        "self_distillation/teacher_accuracy/answers": 2,
    }


def test_it_answers_as_a_validation_does(asked):
    columns = {name: [f"{name} a", f"{name} b"] for name in ("data_source", "raw_prompt")}
    asked._answer(columns, 5)
    batch = asked.queue.asked
    assert list(batch["raw_prompt"]) == columns["raw_prompt"]
    assert list(batch["agent_name"]) == ["teacher_single_turn_agent"] * 2
    assert list(batch["__rollout_n__"]) == [1, 1]
    assert batch["validate"] is True or batch["validate"].data is True
    keys, tags = asked.queue.registered
    assert keys == list(batch["uid"])
    assert tags == [{"is_prompt": True, "status": "pending", "global_steps": 5}] * 2
    assert asked.queue.cleared == (["a", "b"], "val")


def test_there_are_at_most_as_many_answers_as_a_validation_has(asked):
    asked._answer = mock.Mock(return_value=[1.0])
    asked.val_dataset = [None]
    assert asked._evaluate_teacher(asked.queue.batch(), 5)["self_distillation/teacher_accuracy/answers"] == 1


def test_a_batch_that_teaches_nothing_asks_nothing(asked):
    asked.queue.samples = {"1_0_0": entry("1", "x", 0.0)}
    assert asked._evaluate_teacher(asked.queue.batch(), 5) == {}


@pytest.mark.parametrize(("frequency", "steps"), [(None, []), (3, [1, 3, 6]), (1, [1, 2, 3, 4, 5, 6])])
def test_it_is_asked_at_the_first_step_and_every_so_many(asked, frequency, steps):
    asked.config.insight.teacher_eval_freq = frequency
    asked._evaluate_teacher = lambda batch, step: {"step": step}
    asked.guard = SimpleNamespace(config=SimpleNamespace(guard="off"))
    done = []
    with mock.patch.object(PPOTrainerSync, "_compute_metrics", mock.Mock()):
        for step in range(1, 7):
            metrics, timing = {}, {}
            asked._compute_metrics(None, metrics, timing, step, 0)
            done += metrics.values()
            assert ("teacher_eval" in timing) == (step in steps)
    assert done == steps


def test_answers_are_sampled_as_the_student_s_and_have_their_length(monkeypatch):
    async def verls(self, sampling_params, **kwargs):
        return sampling_params, kwargs

    monkeypatch.setattr(SingleTurnAgentLoop, "run", verls)
    loop = TeacherAgentLoop.__new__(TeacherAgentLoop)
    loop.rollout_config = SimpleNamespace(temperature=1.0, top_p=0.9, top_k=-1, response_length=7)
    of_validation = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "logprobs": False}
    sampling, kwargs = asyncio.run(loop.run(of_validation, raw_prompt=[]))
    assert sampling == {"temperature": 1.0, "top_p": 0.9, "top_k": -1, "logprobs": False, "max_tokens": 7}
    assert kwargs == {"raw_prompt": []}
