"""The dump of chosen responses, with the workers' records of their tokens."""

from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

from tests.sdpo.test_teacher_rows import TEMPLATES, encode
from tests.sdpo.trainer.fakes import Characters, Queue, entry, row_builder
from verl.sdpo.config import SelfDistillationConfig
from verl.sdpo.engine.recorder import FOLDER, ROW
from verl.sdpo.runs import dump_schema as dump
from verl.sdpo.trainer.dump import ResponseDump


def make_dump(folder, limit=2) -> ResponseDump:
    config = {
        "trainer": {"rollout_data_dir": str(folder) if folder else None},
        "insight": {"max_samples": limit},
        "data": {"max_response_length": 4},
        "actor_rollout_ref": {"actor": {"self_distillation": TEMPLATES}},
    }
    made = ResponseDump(OmegaConf.create(config))
    made.on_start(SimpleNamespace(tokenizer=Characters()))
    return made


@pytest.fixture
def update(monkeypatch):
    """An update of two attempts, of which one has a teacher context."""
    queue = Queue({"2+2?_1_0": entry("2+2?", "no"), "2+2?_0_0": entry("2+2?", "four", score=1.0)})
    monkeypatch.setattr("verl.sdpo.trainer.samples.tq", queue)
    update = queue.update()
    update.rows = row_builder(SelfDistillationConfig(**TEMPLATES)).build(update.samples, update.step)
    return update


def test_chosen_responses_are_dumped_with_what_the_workers_recorded(update, tmp_path):
    """The worker, here the test, recorded the response that has a teacher context."""
    made = make_dump(tmp_path)
    made.before_update(update)
    # Rows of the dump go by attempt, those of the batch as they come.
    assert update.columns[ROW].tolist() == [1, 0]
    recorded = {name: torch.tensor([0.5, -1.0]) for name in dump.PER_TOKEN} | {"position": torch.tensor([0, 1])}
    for model in dump.MODELS:
        recorded[f"{model}_best"] = torch.tensor([encode("abc"), encode("def")])
        recorded[f"{model}_best_log_probs"] = torch.tensor([[-0.5, -1.0, -2.0]] * 2)
    torch.save({1: recorded}, f"{update.batch.extra_info[FOLDER]}/0.pt")
    metrics = {"timing_s/insight_dump": 1.0}
    made.after_step(3, update.batch, metrics)
    assert metrics["timing_s/insight_dump"] > 1.0
    first, second = dump.read(tmp_path / "insight" / "3.parquet")
    assert (first["tokens"], first["log_ratio"], first["has_target"]) == (list("four"), None, False)
    assert (first["response_cut"], second["response_cut"]) == (True, False)
    assert (second["tokens"], second["log_ratio"]) == (["n", "o"], [0.5, -1.0])
    assert second["teacher_best"] == list("abcdef")
    assert (second["demonstration"], second["demonstration_attempt"]) == ("four", 0)
    assert second["teacher_prompt"] == "2+2?|right: four"
    assert [path.name for path in (tmp_path / "insight").iterdir()] == ["3.parquet"]
    # A step without an update, as the last one at test time, has no dump.
    made.after_step(4, update.batch, {})
    assert [path.name for path in (tmp_path / "insight").iterdir()] == ["3.parquet"]


@pytest.mark.parametrize(("has_folder", "limit"), [(True, 0), (False, 2)])
def test_without_a_folder_or_a_limit_nothing_is_dumped(update, tmp_path, has_folder, limit):
    made = make_dump(tmp_path if has_folder else None, limit)
    made.before_update(update)
    made.after_step(3, update.batch, metrics := {})
    assert (update.columns, metrics, list(tmp_path.iterdir())) == ({}, {}, [])
