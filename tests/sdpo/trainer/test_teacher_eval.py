"""Which prompts the teacher is asked, and what is made of its answers; tests/e2e asks vLLM."""

import asyncio
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from omegaconf import OmegaConf

from tests.sdpo.test_teacher_rows import TEMPLATES
from tests.sdpo.trainer.fakes import Characters, Queue, entry, row_builder
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop
from verl.sdpo.trainer import teacher_eval as module
from verl.sdpo.trainer.rollout import TeacherAgentLoop
from verl.sdpo.trainer.samples import read_samples
from verl.sdpo.trainer.teacher_eval import TeacherEval


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


@pytest.fixture
def queue(monkeypatch):
    """A batch of two questions; question 0 is solved by one of three, question 1 by none and mute."""
    queue = ValQueue(
        {
            "0_0_0": entry("0", "four", 1.0),
            "0_1_0": entry("0", "five", 0.0),
            "0_2_0": entry("0", "six", 0.0),
            "1_0_0": entry("1", "x", 0.0),
        }
    )
    for name in ("samples", "teacher_eval"):
        monkeypatch.setattr(f"verl.sdpo.trainer.{name}.tq", queue)
    monkeypatch.setattr(module, "make_row_builder", lambda config, settings, tokenizer: row_builder(settings))
    return queue


def make_eval(queue, frequency=5, questions=10) -> TeacherEval:
    actor = {"actor": {"self_distillation": TEMPLATES}, "rollout": {"val_kwargs": {"n": 1}}}
    config = OmegaConf.create({"insight": {"teacher_eval_freq": frequency}, "actor_rollout_ref": actor})
    run = SimpleNamespace(
        config=config,
        tokenizer=Characters(),
        val_dataset=[None] * questions,
        read_samples=lambda batch: read_samples(batch, Characters()),
        agent_loop_manager=SimpleNamespace(generate_sequences=lambda batch: setattr(queue, "asked", batch)),
        replay_buffer=SimpleNamespace(
            sample=lambda global_steps, partition_id, batch_size: (SimpleNamespace(keys=["a", "b"][:batch_size]), {})
        ),
    )
    made = TeacherEval(config)
    made.on_start(run)
    return made


def test_the_teacher_answers_the_prompts_that_teach(queue):
    evaluation = make_eval(queue)
    evaluation._answer = mock.Mock(return_value=[1.0, 0.0])
    metrics = evaluation._evaluate(queue.batch(), 5)
    columns, step = evaluation._answer.call_args.args
    assert step == 5
    assert [messages[-1]["content"] for messages in columns["raw_prompt"]] == ["0|right: four"] * 2
    assert columns["data_source"] == ["data_source of 0_1_0", "data_source of 0_2_0"]
    assert metrics == {
        "self_distillation/teacher_accuracy": 0.5,
        "self_distillation/teacher_accuracy/student": pytest.approx(1 / 3),
        "self_distillation/teacher_accuracy/answers": 2,
    }


def test_it_answers_as_a_validation_does(queue):
    columns = {name: [f"{name} a", f"{name} b"] for name in ("data_source", "raw_prompt")}
    make_eval(queue)._answer(columns, 5)
    batch = queue.asked
    assert list(batch["raw_prompt"]) == columns["raw_prompt"]
    assert list(batch["agent_name"]) == ["teacher_single_turn_agent"] * 2
    assert list(batch["__rollout_n__"]) == [1, 1]
    assert batch["validate"] is True or batch["validate"].data is True
    keys, tags = queue.registered
    assert keys == list(batch["uid"])
    assert tags == [{"is_prompt": True, "status": "pending", "global_steps": 5}] * 2
    assert queue.cleared == (["a", "b"], "val")


def test_there_are_at_most_as_many_answers_as_a_validation_has(queue):
    evaluation = make_eval(queue, questions=1)
    evaluation._answer = mock.Mock(return_value=[1.0])
    assert evaluation._evaluate(queue.batch(), 5)["self_distillation/teacher_accuracy/answers"] == 1


def test_a_batch_that_teaches_nothing_asks_nothing(queue):
    queue.samples = {"1_0_0": entry("1", "x", 0.0)}
    assert make_eval(queue)._evaluate(queue.batch(), 5) == {}


@pytest.mark.parametrize(("frequency", "steps"), [(None, []), (3, [1, 3, 6]), (1, [1, 2, 3, 4, 5, 6])])
def test_it_is_asked_at_the_first_step_and_every_so_many(queue, frequency, steps):
    evaluation = make_eval(queue, frequency)
    evaluation._evaluate = lambda batch, step: {"step": step}
    done = []
    for step in range(1, 7):
        evaluation.after_step(step, None, metrics := {})
        done += [metrics["step"]] if "step" in metrics else []
        assert ("timing_s/teacher_eval" in metrics) == (step in steps)
    assert done == steps


def test_answers_are_sampled_as_the_student_s_and_have_their_length(monkeypatch):
    async def verls(self, sampling_params, **kwargs):
        return sampling_params, kwargs

    monkeypatch.setattr(SingleTurnAgentLoop, "run", verls)
    monkeypatch.setattr(SingleTurnAgentLoop, "__init__", lambda self: None)
    loop = TeacherAgentLoop()
    loop.rollout_config = SimpleNamespace(temperature=1.0, top_p=0.9, top_k=-1, response_length=7)
    of_validation = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "logprobs": False}
    sampling, kwargs = asyncio.run(loop.run(of_validation, raw_prompt=[]))
    assert sampling == {"temperature": 1.0, "top_p": 0.9, "top_k": -1, "logprobs": False, "max_tokens": 7}
    assert kwargs == {"raw_prompt": []}
