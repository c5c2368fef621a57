"""The teacher's rows of an update; tests/e2e trains on them."""

import logging
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from tests.sdpo.test_teacher_rows import TEMPLATES, decode
from tests.sdpo.trainer.fakes import Characters, Queue, entry, row_builder
from verl.sdpo.config import defaults
from verl.sdpo.trainer import teacher_batch as module
from verl.sdpo.trainer.teacher_batch import TeacherBatch

BLOCK = {"_target_": "verl.sdpo.config.SelfDistillationConfig", **defaults(), **TEMPLATES}
ACTOR = {"self_distillation": BLOCK, "use_kl_loss": False, "entropy_coeff": 0.0, "calculate_entropy": False}


@pytest.fixture
def queue(monkeypatch):
    queue = Queue()
    monkeypatch.setattr("verl.sdpo.trainer.samples.tq", queue)
    return queue


@pytest.fixture
def teacher_batch(monkeypatch):
    monkeypatch.setattr(module, "make_row_builder", lambda config, settings, tokenizer: row_builder(settings))
    made = TeacherBatch(OmegaConf.create({"actor_rollout_ref": {"actor": ACTOR}}))
    made.on_start(SimpleNamespace(config=None, tokenizer=Characters(), num_ranks=1, replay_buffer=None))
    return made


def test_teacher_rows_are_added_to_an_update(teacher_batch, queue):
    queue.samples = {"2+2?_1_0": entry("2+2?", "five"), "2+2?_0_0": entry("2+2?", "four", score=1.0)}
    teacher_batch.before_update(update := queue.update())
    assert set(update.columns) == {"teacher_input_ids", "teacher_weight", "reward_weight"}
    rows = update.columns["teacher_input_ids"]
    assert [decode(row.tolist()) for row in rows.unbind()] == ["<2+2?|right: four>five", "<2+2?>four"]
    assert update.columns["teacher_weight"].tolist() == [1.0, 0.0]
    assert update.columns["reward_weight"].tolist() == [1.0, 1.0]
    # In an order of their own, not in that of their completion.
    assert update.order == [1, 0]
    assert update.timing["teacher_batch"] > 0
    assert update.metrics["self_distillation/reprompt_sample_fraction"] == 0.5


def test_a_step_without_a_teacher_context_is_reported(teacher_batch, queue, caplog):
    queue.samples = {"2+2?_0_0": entry("2+2?", "four", score=1.0)}
    with caplog.at_level(logging.WARNING):
        teacher_batch.before_update(queue.update())
    assert "step 3: NO TARGET" in caplog.text
