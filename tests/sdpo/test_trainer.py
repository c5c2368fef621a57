"""What the trainer and the worker add to verl's, each method alone; tests/e2e runs them as a whole."""

import logging
from types import SimpleNamespace

import pytest
import torch

from verl.sdpo.config import SelfDistillationConfig
from verl.sdpo.reprompt import Rollout
from verl.sdpo.worker import SelfDistillationWorker
from verl.trainer.ppo.utils import Role
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.workers.engine_workers import ActorRolloutRefWorker

StoppableTrainer, SelfDistillationTrainer = get_trainer_cls("sync_stoppable"), get_trainer_cls("sdpo")
MESSAGES = [{"role": "user", "content": "What is the weather in Rome?"}]
WEATHER, ALARM = ({"type": "function", "function": {"name": name}} for name in ("weather", "alarm"))


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
        Rollout("a_b", MESSAGES, "1-2", 1.0, "well done", graded=True, attempt=2),
        Rollout("a_b", MESSAGES, "3", 0.5, "the grader broke", graded=False, attempt=0),
        Rollout("c", MESSAGES, "4", 1.0, None, graded=False, attempt=1),
    ]


def test_a_step_without_a_target_is_said_with_the_likely_reason(trainer, caplog):
    rollouts = [
        Rollout("a", MESSAGES, "x", 0.25, feedback="no"),
        Rollout("a", MESSAGES, "y", 0.0),
        Rollout("a", MESSAGES, "fill", 9.0, graded=False),
    ]
    with caplog.at_level(logging.WARNING):
        trainer._report_no_target(rollouts)
    assert "step 3: NO TARGET" in caplog.text
    assert "Best score 0.25 against success_reward_threshold=1;" in caplog.text
    assert "1 of 3 samples came with feedback (include_environment_feedback=True)" in caplog.text


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
