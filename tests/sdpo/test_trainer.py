"""What the trainer and the worker add to verl's, each method alone; tests/e2e runs them as a whole."""

import logging
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from transfer_queue import KVBatchMeta

from verl.sdpo.adapters.worker import SelfDistillationWorker
from verl.sdpo.config import SelfDistillationConfig
from verl.sdpo.reprompt import Rollout, TeacherPrompt
from verl.trainer.ppo.utils import Role
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.utils.tensordict_utils import get_tensordict
from verl.workers.engine_workers import ActorRolloutRefWorker

StoppableTrainer, SelfDistillationTrainer = get_trainer_cls("sync_stoppable"), get_trainer_cls("sdpo")
MESSAGES = [{"role": "user", "content": "What is the weather in Rome?"}]
WEATHER, ALARM = ({"type": "function", "function": {"name": name}} for name in ("weather", "alarm"))
JAGGED = {"input_ids": torch.int64, "responses": torch.int64, "rm_scores": torch.float32}


@pytest.fixture
def trainer():
    trainer = object.__new__(SelfDistillationTrainer)
    trainer.settings = SelfDistillationConfig()
    trainer.global_steps = 3
    return trainer


def jagged(rows, dtype=torch.float32):
    return torch.nested.as_nested_tensor([torch.tensor(row, dtype=dtype) for row in rows], layout=torch.jagged)


def test_rollouts_are_the_batch_in_plain_python(trainer):
    trainer.tokenizer = SimpleNamespace(
        batch_decode=lambda rows, skip_special_tokens: ["-".join(map(str, row.tolist())) for row in rows]
    )
    batch = SimpleNamespace(keys=["a_b_2_0", "a_b_0_0", "c_1_0"], tags=[{}, {}, {"is_padding": True}])
    data = {
        "uid": ["a_b", "a_b", "c"],
        "raw_prompt": [MESSAGES] * 3,
        "responses": jagged([[1, 2], [3], [4]], torch.int64),
        "rm_scores": jagged([[0.0, 1.0], [0.5], [1.0]]),
        "extra_fields": [
            {"reward_extra_info": {"feedback": "well done"}},
            {"reward_extra_info": {"feedback": "the grader broke", "grader_error": True}},
            {},
        ],
    }
    assert trainer._rollouts(batch, data) == [
        Rollout("a_b", 2, MESSAGES, "1-2", 1.0, "well done", graded=True),
        Rollout("a_b", 0, MESSAGES, "3", 0.5, "the grader broke", graded=False),
        Rollout("c", 1, MESSAGES, "4", 1.0, None, graded=False),
    ]


def test_a_step_without_a_target_is_said_with_the_likely_reason(trainer, caplog):
    rollouts = [
        Rollout("a", 0, MESSAGES, "x", 0.25, feedback="no"),
        Rollout("a", 1, MESSAGES, "y", 0.0),
        Rollout("a", 0, MESSAGES, "fill", 9.0, graded=False),
    ]
    with caplog.at_level(logging.WARNING):
        trainer._report_no_target(rollouts, [TeacherPrompt(MESSAGES), TeacherPrompt(MESSAGES, truncated=True)])
    assert "step 3: NO TARGET" in caplog.text
    assert "Best score 0.25 against success_reward_threshold=1;" in caplog.text
    assert "1 of 3 samples came with feedback (include_environment_feedback=True)" in caplog.text
    assert "1 lost theirs to max_reprompt_len=10240" in caplog.text


class Characters:
    """Tokenizer and prompt builder with a token a character."""

    def encode(self, text, add_special_tokens=False):
        return [ord(character) for character in text]

    def decode(self, ids):
        return "".join(map(chr, ids))

    def batch_decode(self, rows, skip_special_tokens):
        return [self.decode(row.tolist()) for row in rows]

    def build_initial_tokens(self, messages, tools):
        return self.encode(f"<{messages[-1]['content']}>")


def sample(question, response, score=0.0, **reward_extra_info):
    """What the agent loop leaves of one attempt. The student reads [question], so that its prompt can be told apart."""
    encode = Characters().encode
    return {
        "uid": question,
        "raw_prompt": [{"role": "user", "content": question}],
        "input_ids": encode(f"[{question}]{response}"),
        "responses": encode(response),
        "rm_scores": [0.0] * (len(response) - 1) + [score],
        "extra_fields": {"reward_extra_info": reward_extra_info},
        "multi_modal_inputs": {},
    }


class Queue:
    """TransferQueue as the trainer uses it, holding the samples of one step; keys of padding start with "pad"."""

    def __init__(self):
        self.samples, self.written, self.meta = {}, None, None

    def batch(self):
        tags = [{"is_padding": key.startswith("pad")} for key in self.samples]
        return KVBatchMeta(list(self.samples), tags, "train", extra_info={"temperature": 0.6})

    def kv_batch_get(self, keys, partition_id, select_fields):
        assert partition_id == "train"
        columns = {name: [self.samples[key][name] for key in keys] for name in select_fields}
        for name in JAGGED.keys() & columns.keys():
            columns[name] = jagged(columns[name], JAGGED[name])
        return get_tensordict(columns)

    def kv_batch_put(self, keys, partition_id, fields):
        assert (keys, partition_id) == (list(self.samples), "train")
        self.written = fields
        self.meta = KVBatchMeta(keys, [{} for _ in keys], partition_id, extra_info={"of": "the write"})
        return self.meta


@pytest.fixture
def queue(trainer, monkeypatch):
    """Puts the trainer behind a queue; its templates are short enough for a test's expectations."""
    trainer.settings = SelfDistillationConfig(
        reprompt_template="{prompt}{solution}{feedback}",
        solution_template="|right: {successful_previous_attempt}",
        feedback_template="|told: {feedback_raw}",
        max_grader_error_rate=0.25,
    )
    trainer.tokenizer = trainer.prompt_builder = Characters()
    trainer.tool_schemas, trainer.search = {}, None
    trainer.config = SimpleNamespace(trainer=SimpleNamespace(rollout_data_dir=None))
    queue = Queue()
    monkeypatch.setattr("verl.sdpo.adapters.trainer.tq", queue)
    return queue


def test_every_row_gets_the_prompt_of_its_own_teacher_before_its_own_response(trainer, queue, caplog):
    """Prompt lengths by hand: 18 for the demonstration, 22 for the feedback; rows without a target do not count."""
    queue.samples = {
        "capital?_0_0": sample("capital?", "Rome", feedback="Paris"),
        "2+2?_1_0": sample("2+2?", "five", feedback="too much"),
        "why?_0_0": sample("why?", "because"),
        "2+2?_0_0": sample("2+2?", "four", score=1.0),
        # As verl fills a batch up: uid and tokens of its own, the rest from a real sample.
        "pad_0_0": {**sample("2+2?", "$", feedback="too much"), "uid": "pad"},
    }
    metrics = {}
    batch = trainer._add_teacher_rows(queue.batch(), metrics)
    rows = queue.written["teacher_input_ids"]
    assert rows.dtype == torch.int64
    assert [trainer.tokenizer.decode(row.tolist()) for row in rows.unbind()] == [
        "<capital?|told: Paris>Rome",
        "<2+2?|right: four>five",
        "[why?]because",
        "[2+2?]four",
        "[2+2?]$",
    ]
    assert queue.written["self_distillation_mask"].tolist() == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert set(queue.written.keys()) == {"teacher_input_ids", "self_distillation_mask"}
    assert batch is queue.meta
    assert batch.extra_info == {"of": "the write", "temperature": 0.6}
    assert metrics["self_distillation/teacher_prompt_length/mean"] == 20
    assert metrics["self_distillation/teacher_prompt_length/max"] == 22
    assert metrics["self_distillation/reprompt_sample_fraction"] == 0.5
    assert "NO TARGET" not in caplog.text


def test_a_step_without_a_target_warns_and_keeps_the_rows_of_the_student(trainer, queue, caplog):
    queue.samples = {"2+2?_0_0": sample("2+2?", "four", score=1.0), "why?_0_0": sample("why?", "because")}
    metrics = {}
    with caplog.at_level(logging.WARNING):
        trainer._add_teacher_rows(queue.batch(), metrics)
    assert "step 3: NO TARGET" in caplog.text
    rows = queue.written["teacher_input_ids"].unbind()
    assert [trainer.tokenizer.decode(row.tolist()) for row in rows] == ["[2+2?]four", "[why?]because"]
    assert queue.written["self_distillation_mask"].tolist() == [0.0, 0.0]
    assert "self_distillation/teacher_prompt_length/mean" not in metrics


def test_a_target_that_truncation_took_away_is_none(trainer, queue, caplog):
    trainer.settings = replace(trainer.settings, max_reprompt_len=8)
    queue.samples = {"2+2?_0_0": sample("2+2?", "five", feedback="too much")}
    metrics = {}
    with caplog.at_level(logging.WARNING):
        trainer._add_teacher_rows(queue.batch(), metrics)
    assert "step 3: NO TARGET" in caplog.text
    assert "1 lost theirs to max_reprompt_len=8" in caplog.text
    assert queue.written["self_distillation_mask"].tolist() == [0.0]
    assert "self_distillation/teacher_prompt_length/mean" not in metrics


def graded_samples(errors, padding):
    """A step's samples, each with whether its grader broke."""
    keys = [f"q_{i}_0" for i in range(len(errors))] + [f"pad_{i}_0" for i in range(len(padding))]
    return {key: sample("q", "x", grader_error=error) for key, error in zip(keys, errors + padding, strict=True)}


@pytest.mark.parametrize(
    ("errors", "padding", "rate"),
    [([False] * 4, [True], 0.0), ([True] + [False] * 4, [], 0.2), ([True] + [False] * 3, [True], 0.25)],
    ids=["none", "below", "at the limit"],
)
def test_a_few_broken_graders_are_counted(trainer, queue, errors, padding, rate):
    queue.samples = graded_samples(errors, padding)
    metrics = {}
    trainer._add_teacher_rows(queue.batch(), metrics)
    assert metrics["self_distillation/grader_error_fraction"] == rate


@pytest.mark.parametrize(
    ("errors", "padding", "share"),
    [([True, True, False, False], [], r"50\.0% of 4"), ([True, False, False], [False], r"33\.3% of 3")],
    ids=["many", "few but for the padding"],
)
def test_too_many_broken_graders_stop_the_training(trainer, queue, errors, padding, share):
    queue.samples = graded_samples(errors, padding)
    with pytest.raises(RuntimeError, match=rf"step 3: {share} samples could not be graded, .*error_rate=0\.25\."):
        trainer._add_teacher_rows(queue.batch(), {})
    assert queue.written is None


def test_a_batch_with_an_image_is_refused(trainer, queue):
    queue.samples = {"q_0_0": sample("q", "x"), "q_1_0": {**sample("q", "y"), "multi_modal_inputs": {"pixels": [0.5]}}}
    with pytest.raises(ValueError, match="the batch has images, video or audio: SDPO supports text only"):
        trainer._add_teacher_rows(queue.batch(), {})
    assert queue.written is None


class Builder:
    """A chat template that lists the names of the tools, then the last message."""

    def build_initial_tokens(self, messages, tools):
        names = [tool["function"]["name"] for tool in tools or []]
        return [*map(len, names), len(messages[-1]["content"])]


@pytest.mark.parametrize(
    ("student_prompt", "extra_info", "shown"),
    [
        ([7, 5, 28], {}, [WEATHER, ALARM]),
        ([5, 7, 28], {"tool_selection": ["alarm", "unknown", "weather"]}, [ALARM, WEATHER]),
        ([5, 28], {"tool_selection": ["alarm"]}, [ALARM]),
        ([28], {"tool_selection": ["alarm"]}, None),
        ([28], {}, None),
    ],
    ids=["all", "chosen order", "chosen", "a loop without tools", "another such"],
)
def test_the_teacher_sees_the_tools_that_the_student_saw(trainer, student_prompt, extra_info, shown):
    trainer.prompt_builder = Builder()
    trainer.tool_schemas = {"weather": WEATHER, "alarm": ALARM}
    assert trainer._tools_shown(MESSAGES, student_prompt, extra_info) == shown


def test_a_loop_that_changes_the_prompt_is_refused(trainer):
    trainer.prompt_builder = Builder()
    trainer.tool_schemas = {"weather": WEATHER}
    trainer.tokenizer = SimpleNamespace(decode=lambda ids: f"text of {ids}")
    with pytest.raises(ValueError, match=r"step 3: the agent loop gave the student 'text of \[1, 28\]'"):
        trainer._tools_shown(MESSAGES, [1, 28], {})


def test_without_tools_nothing_is_compared(trainer):
    trainer.tool_schemas = {}
    assert trainer._tools_shown(MESSAGES, [1], {}) is None


@pytest.mark.parametrize("verls_role", [Role.ActorRollout, Role.ActorRolloutRef])
@pytest.mark.parametrize(("teacher", "needs_reference"), [("ema", True), ("frozen", True), ("live", False)])
def test_every_teacher_but_the_live_one_has_a_reference_model(
    trainer, monkeypatch, verls_role, teacher, needs_reference
):
    """verl builds a reference model (`verls_role`) for a KL penalty only."""

    def verls(self):
        self.role_worker_mapping, self.mapping = {verls_role: "verl's worker"}, {verls_role: "pool"}

    monkeypatch.setattr(StoppableTrainer, "_init_resource_pool_mgr", verls)
    trainer.settings = SelfDistillationConfig(teacher_regularization=teacher)
    trainer._init_resource_pool_mgr()
    role = Role.ActorRolloutRef if needs_reference or verls_role is Role.ActorRolloutRef else Role.ActorRollout
    assert trainer.mapping == {role: "pool"}
    (worker,) = trainer.role_worker_mapping.values()
    assert list(trainer.role_worker_mapping) == [role]
    assert worker.__ray_metadata__.class_name == "SelfDistillationWorker"


def test_the_teacher_is_saved_before_verl_deletes_older_checkpoints(monkeypatch):
    saved = []
    monkeypatch.setattr(ActorRolloutRefWorker, "save_checkpoint", lambda self, *args: saved.append("actor"))
    worker = object.__new__(SelfDistillationWorker)
    worker.teacher = SimpleNamespace(save=lambda folder, step: saved.append(("teacher", folder, step)))
    worker.save_checkpoint("folder", None, 7, 1)
    assert saved == [("teacher", "folder", 7), "actor"]
