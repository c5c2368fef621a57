"""What a trainer does about the guard's events. `fit` is stock verl's; everything that trains is taken out."""

import json
import logging
from types import SimpleNamespace
from unittest import mock

import pytest
from omegaconf import OmegaConf

from verl.sdpo.config import STOPPABLE_MODES, TRAINER_MODES
from verl.sdpo.runs.guard_rules import ACCURACY, Guard, GuardConfig
from verl.sdpo.teacher import TEACHERS
from verl.sdpo.trainer.guard import GuardMixin, format_errors
from verl.sdpo.trainer.supervision import Watch
from verl.trainer.ppo.v1 import get_trainer_cls, trainer_base
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.trainer.ppo.v1.trainer_separate_async import HybridEngineMode

ADAPTER = "verl.sdpo.trainer.guard"
GOOD, BAD = 0.8, 0.0
COLLAPSE = [GOOD, 0.78, 0.82, GOOD, BAD, BAD, BAD, BAD, BAD]


class Recorder:
    """Records what is saved, loaded and sent to vLLM; the training accuracy of each step is given."""

    use_critic = False

    def __init__(
        self, folder, curve, loss_mode="sdpo", save_freq=-1, test_freq=-1, val_before_train=False, keep=None, **insight
    ):
        self.config = OmegaConf.create(
            {
                "trainer": {
                    "default_local_dir": str(folder),
                    "project_name": "project",
                    "experiment_name": "experiment",
                    "logger": [],
                    "val_before_train": val_before_train,
                    "total_epochs": 1,
                    "save_freq": save_freq,
                    "test_freq": test_freq,
                    "resume_mode": "auto",
                },
                "global_profiler": {"steps": None, "profile_continuous_steps": False},
                "actor_rollout_ref": {
                    "actor": {"policy_loss": {"loss_mode": loss_mode}, "checkpoint": {"async_save": False}}
                },
            }
        )
        self.folder, self.curve = folder, curve
        self.guard = Guard(GuardConfig(**insight))
        self.saved_step = self.good_step = 0
        self.unnamed_step, self.kept_checkpoints, self.watch = None, keep, Watch(dict)
        self.rolled_back = False
        self.validation_events = []
        self.total_training_steps = self.steps_per_epoch = len(curve)
        self.global_steps = 0
        self.done, self.logged = [], []
        self.composed, self.last_timing = {}, {}
        self.train_seconds = self.seconds_so_far = 0.0
        self.actor_rollout_wg = SimpleNamespace(
            load_checkpoint=lambda local_path, del_local_after_load: self.done.append(f"load {local_path}"),
            refresh_teacher=lambda: self.done.append("refresh teacher"),
        )
        self.checkpoint_manager = SimpleNamespace(
            abort_replicas=lambda: self.done.append("abort"),
            sleep_replicas=lambda: self.done.append("sleep"),
            update_weights=lambda step: self.done.append("wake"),
        )
        self._init_dump_executor()

    def on_train_begin(self):
        pass

    def on_step_end(self):
        pass


class Loop(Recorder, get_trainer_cls("sync_stoppable")):
    trainer_mode = "sync"


class ColocateLoop(Recorder, get_trainer_cls("colocate_async_stoppable")):
    trainer_mode = "colocate_async"


class SeparateLoop(Recorder, get_trainer_cls("separate_async_stoppable")):
    """Its accelerators are lent to generation at the end of every step."""

    trainer_mode = "separate_async"
    current_mode = HybridEngineMode.TRAINER
    hybrid_rollout_config = SimpleNamespace(enable_switch=False)
    _sample_start = 0.0

    def on_step_end(self):
        self.current_mode = HybridEngineMode.ROLLOUT

    def switch_to_trainer(self):
        self.done.append("take back")
        self.current_mode = HybridEngineMode.TRAINER


def verl_save(self):
    folder = self.folder / f"global_step_{self.global_steps}"
    assert (folder / "guard.json").is_file()
    (folder / "actor").mkdir()
    self.done.append(f"save {self.global_steps}")


def verl_metrics(self, batch, metrics, timing_raw, global_steps, epoch):
    metrics[ACCURACY] = self.curve[global_steps - 1]
    self.logged.append(metrics)


def fit(folder, curve, kind=Loop, **settings) -> Recorder:
    loop = kind(folder, curve, **settings)
    verls = {"step": mock.Mock(), "_save_checkpoint": verl_save, "_compute_metrics": verl_metrics}
    with (
        mock.patch.multiple(PPOTrainer, **verls),
        mock.patch.multiple(trainer_base, tq=mock.DEFAULT, SkipManager=mock.DEFAULT),
        mock.patch(f"{ADAPTER}.format_errors", lambda batch: {}),
    ):
        loop.fit(agent_loop_manager=None)
    return loop


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


@pytest.mark.parametrize("name", STOPPABLE_MODES | TRAINER_MODES)
def test_every_trainer_is_guarded(name):
    assert issubclass(get_trainer_cls(name), GuardMixin)


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
    loop = fit(tmp_path, COLLAPSE, ColocateLoop, guard="stop")
    assert loop.done == ["abort", "sleep", "save 9"]


def test_stop_takes_accelerators_back_that_are_lent_to_generation(tmp_path):
    """As after a validation, for which verl's separated trainer lends them."""
    loop = fit(tmp_path, COLLAPSE, SeparateLoop, guard="stop")
    assert loop.done == ["take back"] * 8 + ["take back", "save 9"]


def test_stop_does_not_save_twice(tmp_path):
    """verl would delete what it saved, see docs/verl-notes.md."""
    loop = fit(tmp_path, [*COLLAPSE, GOOD, GOOD], guard="stop", save_freq=9)
    assert len(loop.logged) == 9
    assert loop.done == ["save 9"]


def test_rollback_goes_back_to_the_last_good_checkpoint_once(tmp_path):
    loop = fit(tmp_path, [*COLLAPSE, *COLLAPSE[4:], GOOD], guard="rollback", save_freq=2)
    back = ["sleep", f"load {tmp_path / 'global_step_4'}/actor", "refresh teacher", "wake"]
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


def test_rollback_without_sdpo_has_no_teacher(tmp_path):
    loop = fit(tmp_path, [*COLLAPSE, GOOD], guard="rollback", save_freq=4, loss_mode="vanilla")
    assert "refresh teacher" not in loop.done
    assert "wake" in loop.done


def test_a_resumed_run_remembers_its_past_and_its_rollback(tmp_path):
    first = fit(tmp_path, [*COLLAPSE, GOOD], guard="rollback", save_freq=4)
    assert first.rolled_back
    second = Loop(tmp_path, [], guard="rollback")

    def verl_load(self):
        self.global_steps = 4

    with mock.patch.object(PPOTrainer, "_load_checkpoint", verl_load):
        second._load_checkpoint()
    assert second.rolled_back
    assert second.good_step == 4
    # Of step 4 the guard knows nothing: it was saved before.
    assert second.guard.records[ACCURACY].steps == 3


def test_format_errors_are_those_of_samples_that_say(monkeypatch):
    rewards = [{"incorrect_format": 1}, {"incorrect_format": 0}, {"incorrect_format": 1}]
    data = {"extra_fields": [{"reward_extra_info": reward} for reward in rewards]}
    monkeypatch.setattr(f"{ADAPTER}.tq", SimpleNamespace(kv_batch_get=lambda **_: data))
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
