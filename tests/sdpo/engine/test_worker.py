"""What the worker adds to verl's; tests/e2e runs it as a whole."""

from types import SimpleNamespace

from verl.sdpo.engine.worker import SelfDistillationWorker
from verl.workers.engine_workers import ActorRolloutRefWorker


def test_a_worker_can_score_with_the_weights_that_generation_has():
    """verl's separated trainer asks for this (trainer_separate_async.py)."""
    assert {"save_model_to_cpu", "restore_model_from_cpu", "clear_cpu_model"} <= set(dir(SelfDistillationWorker))


def test_the_teacher_is_saved_before_verl_deletes_older_checkpoints(monkeypatch):
    saved = []
    monkeypatch.setattr(ActorRolloutRefWorker, "save_checkpoint", lambda self, *args: saved.append("actor"))
    worker = object.__new__(SelfDistillationWorker)
    worker.teacher = SimpleNamespace(save=lambda folder, step: saved.append(("teacher", folder, step)))
    worker.save_checkpoint("folder", None, 7, 1)
    assert saved == [("teacher", "folder", 7), "actor"]
