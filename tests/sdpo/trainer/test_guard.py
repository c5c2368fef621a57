"""What a trainer does about the guard's events. `fit` is stock verl's; everything that trains is taken out."""

import json
import logging
from types import SimpleNamespace
from unittest import mock

import pytest

from tests.sdpo.trainer import fakes
from tests.sdpo.trainer.fakes import make_trainer, trainer_config
from verl.sdpo.runs.guard_rules import ACCURACY
from verl.sdpo.teacher import TEACHERS
from verl.sdpo.trainer.guard import MetricsGuard, format_errors
from verl.sdpo.trainer.mixin import ExtendedTrainer
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.trainer.ppo.v1.trainer_separate_async import HybridEngineMode

GOOD, BAD = 0.8, 0.0
COLLAPSE = [GOOD, 0.78, 0.82, GOOD, BAD, BAD, BAD, BAD, BAD]


def fit(folder, curve, mode="sync_stoppable", keep=None, **settings) -> ExtendedTrainer:
    """Run steps with this training accuracy."""
    settings = {"save_freq": -1, **settings}
    trainer = make_trainer(trainer_config(folder, mode, max_actor_ckpt_to_keep=keep, **settings), len(curve))
    if mode == "separate_async_stoppable":
        lend_accelerators(trainer)
    return fakes.fit(trainer, **{ACCURACY: curve})


def lend_accelerators(trainer) -> None:
    """As verl's trainer does at the end of every step, for generation."""

    def switch_to_trainer():
        trainer.done.append("take back")
        trainer.current_mode = HybridEngineMode.TRAINER

    def on_step_end():
        trainer.current_mode = HybridEngineMode.ROLLOUT

    trainer.current_mode, trainer._sample_start = HybridEngineMode.TRAINER, 0.0
    trainer.hybrid_rollout_config = SimpleNamespace(enable_switch=False)
    trainer.on_step_end, trainer.switch_to_trainer = on_step_end, switch_to_trainer


def guard_of(trainer) -> MetricsGuard:
    (guard,) = (extension for extension in trainer.extensions if isinstance(extension, MetricsGuard))
    return guard


def test_validation_before_the_first_step_counts(tmp_path):
    values = iter([0.9, 0.85, 0.3])

    def verl_validate(self):
        return {"val-core/task/acc/mean@4": next(values)}

    with mock.patch.object(PPOTrainer, "_validate", verl_validate):
        loop = fit(tmp_path, [GOOD] * 6, guard="stop", test_freq=2, val_before_train=True)
    (event,) = events(tmp_path)
    assert event["sentence"] == "step 4: validation is 0.30, after 0.90 at its best."
    assert len(loop.logged) == 4


def events(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "guard.jsonl").read_text().splitlines()]


def test_warn_says_it_and_goes_on(tmp_path, caplog):
    folder = tmp_path / "not there before the first checkpoint"
    with caplog.at_level(logging.WARNING):
        loop = fit(folder, [*COLLAPSE, GOOD])
    assert [metrics["guard/events"] for metrics in loop.logged] == [0] * 8 + [1, 0]
    sentence = "step 9: training accuracy is 0 over the last 5 steps, after 0.8 over the 4 steps before."
    assert f"GUARD (warn) {sentence}" in caplog.text
    assert events(folder) == [{"step": 9, "signal": ACCURACY, "sentence": sentence, "action": "warn"}]
    assert loop.done == []


def test_off_watches_nothing(tmp_path):
    loop = fit(tmp_path, COLLAPSE, guard="off")
    assert all("guard/events" not in metrics for metrics in loop.logged)
    assert not (tmp_path / "guard.jsonl").exists()


def test_stop_saves_and_ends(tmp_path):
    loop = fit(tmp_path, [*COLLAPSE, GOOD, GOOD], guard="stop")
    assert len(loop.logged) == 9
    assert loop.done == ["sleep", "save 9"]
    assert (tmp_path / "stopped_by_guard").exists()


def test_stop_of_an_asynchronous_training_ends_what_is_being_generated_first(tmp_path):
    """verl's colocated trainer has requests in flight, which would keep vLLM awake."""
    loop = fit(tmp_path, COLLAPSE, "colocate_async_stoppable", guard="stop")
    assert loop.done == ["abort", "sleep", "save 9"]


def test_stop_takes_accelerators_back_that_are_lent_to_generation(tmp_path):
    """As after a validation, for which verl's separated trainer lends them."""
    loop = fit(tmp_path, COLLAPSE, "separate_async_stoppable", guard="stop")
    assert loop.done == ["take back"] * 8 + ["take back", "save 9"]


def test_stop_does_not_save_twice(tmp_path):
    """verl would delete what it saved, see docs/verl-notes.md."""
    loop = fit(tmp_path, [*COLLAPSE, GOOD, GOOD], guard="stop", save_freq=9)
    assert len(loop.logged) == 9
    assert loop.done == ["save 9"]


def test_rollback_goes_back_to_the_last_good_checkpoint_once(tmp_path):
    loop = fit(tmp_path, [*COLLAPSE, *COLLAPSE[4:], GOOD], guard="rollback", save_freq=2)
    back = ["sleep", f"load {tmp_path / 'global_step_4'}/actor", "wake"]
    # Steps 6, 8 and 12 look wrong and are not saved. Step 10 is saved before anything is seen of it, 14 is the end.
    assert loop.done == ["save 2", "save 4", *back, "save 10", "sleep", "save 14"]
    assert [event["action"] for event in events(tmp_path)] == ["rollback", "stop"]
    assert len(loop.logged) == 14
    assert (tmp_path / "latest_checkpointed_iteration.txt").read_text() == "14"


def test_a_checkpoint_that_it_goes_back_from_is_never_named(tmp_path):
    """Step 9 is saved, and found to be bad before it is named."""
    fit(tmp_path, COLLAPSE, guard="rollback", save_freq=3)
    assert (tmp_path / "global_step_9").is_dir()
    assert (tmp_path / "latest_checkpointed_iteration.txt").read_text() == "3"


def test_a_checkpoint_of_the_first_bad_step_is_no_good_one(tmp_path):
    """The guard judges a step after it was saved."""
    loop = fit(tmp_path, [*COLLAPSE, GOOD], guard="rollback", save_freq=5)
    assert loop.done == ["save 5", "sleep", "save 9"]
    assert [event["action"] for event in events(tmp_path)] == ["stop"]


@pytest.mark.parametrize(("loss_mode", "refreshes"), [("sdpo", True), ("vanilla", False)])
def test_rollback_makes_the_teacher_of_sdpo_a_copy_of_the_student(tmp_path, loss_mode, refreshes):
    trainer = make_trainer(trainer_config(tmp_path, loss_mode=loss_mode), 4)
    trainer.checkpoints.folder(2).mkdir()
    trainer.go_back_to(2)
    assert ("refresh teacher" in trainer.done) == refreshes
    assert trainer.done[-1] == "wake"


def test_a_resumed_run_remembers_its_past_and_its_rollback(tmp_path):
    first = fit(tmp_path, [*COLLAPSE, GOOD], guard="rollback", save_freq=4)
    assert guard_of(first).rolled_back
    second = make_trainer(trainer_config(tmp_path, guard="rollback"), 4)

    def verl_load(self):
        self.global_steps = 4

    with mock.patch.object(PPOTrainer, "_load_checkpoint", verl_load):
        second._load_checkpoint()
    assert guard_of(second).rolled_back
    assert guard_of(second).good_step == 4
    # The guard has not seen step 4: the checkpoint was saved before.
    assert guard_of(second).guard.records[ACCURACY].steps == 3


def test_format_errors_are_those_of_samples_that_say(monkeypatch):
    rewards = [{"incorrect_format": 1}, {"incorrect_format": 0}, {"incorrect_format": 1}]
    data = {"extra_fields": [{"reward_extra_info": reward} for reward in rewards]}
    monkeypatch.setattr("verl.sdpo.trainer.samples.tq", SimpleNamespace(kv_batch_get=lambda **_: data))
    batch = SimpleNamespace(keys=["a", "b", "pad"], partition_id="train", tags=[{}, {}, {"is_padding": True}])
    assert format_errors(batch) == {"training/incorrect_format": 0.5}
    data["extra_fields"] = [{}, {"reward_extra_info": {"feedback": ""}}, {}]
    assert format_errors(batch) == {}


@pytest.mark.parametrize(("kind", "rates"), [("ema", [1.0]), ("refresh", [1.0]), ("frozen", []), ("live", [])])
def test_a_teacher_that_moves_becomes_the_student(kind, rates):
    done = []
    weights = SimpleNamespace(follow=done.append)
    teacher = TEACHERS[kind](TEACHERS[kind].Config(), student=None, reference=None, weights=weights)
    teacher.state = {"age": 7}
    teacher.restart()
    assert done == rates
    assert teacher.state == ({} if rates else {"age": 7})


def test_a_checkpoint_that_was_saved_right_before_the_alarm_is_no_good_one(tmp_path):
    """verl saves, then validates: at step 4 both, and the validation has fallen."""
    values = iter([0.9, 0.1, 0.9])
    with mock.patch.object(PPOTrainer, "_validate", lambda self: {"val-core/task/acc/mean@4": next(values)}):
        loop = fit(tmp_path, [GOOD] * 6, guard="rollback", save_freq=2, test_freq=2)
    assert loop.done[:3] == ["save 2", "save 4", "sleep"]
    assert loop.done[3] == f"load {tmp_path / 'global_step_2'}/actor"


def test_a_checkpoint_that_was_deleted_is_none(tmp_path):
    """With one kept, that of step 5, the first bad one, takes the place of the last good one."""
    fit(tmp_path, [*COLLAPSE, GOOD], guard="rollback", save_freq=1, keep=1)
    assert [event["action"] for event in events(tmp_path)] == ["stop"]
