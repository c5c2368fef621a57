"""`fit` and the choice of when to save are stock verl's; everything that trains is taken out."""

import json
from types import SimpleNamespace
from unittest import mock

import pytest
from omegaconf import OmegaConf

from verl.sdpo.config import STOPPABLE_MODES, TRAINER_MODES
from verl.sdpo.runs import checkpoints
from verl.sdpo.runs.checkpoints import TRACKER
from verl.sdpo.trainer.stop import StoppableMixin
from verl.sdpo.trainer.supervision import Watch
from verl.trainer.ppo.v1 import get_trainer_cls, trainer_base
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

LAST_STEP = 4


class Loop(StoppableMixin, PPOTrainerSync):
    """Records the steps taken and saved. The file `stop` appears during step `ask_at`."""

    trainer_mode = "sync"

    def __init__(self, folder, *, ask_at: int = 99, save_freq: int = 25, **trainer):
        self.config = OmegaConf.create(
            {
                "trainer": {
                    "default_local_dir": str(folder),
                    "project_name": "project",
                    "experiment_name": "experiment",
                    "logger": [],
                    "val_before_train": False,
                    "total_epochs": 1,
                    "save_freq": save_freq,
                    "test_freq": -1,
                    "resume_mode": "auto",
                    **trainer,
                },
                "global_profiler": {"steps": None, "profile_continuous_steps": False},
                "actor_rollout_ref": {"actor": {"checkpoint": {"async_save": False}}},
            }
        )
        self.unnamed_step, self.kept_checkpoints, self.watch = None, 2, Watch(dict)
        self.folder, self.ask_at = folder, ask_at
        self.total_training_steps = self.steps_per_epoch = LAST_STEP
        self.global_steps = 0
        self.taken, self.saved = [], []
        self.composed = {"a": 1}
        self.train_seconds = self.seconds_so_far = 0.0
        self.last_timing = {}
        self._init_dump_executor()

    def on_step_end(self):
        self.taken.append(self.global_steps)

    def _compute_metrics(self, *args, **kwargs):
        pass


def verl_step(self, metrics, timing_raw):
    if self.global_steps == self.ask_at:
        (self.folder / "stop").touch()
    return mock.Mock()


def verl_save(self):
    """Names it unless told that others do (trainer_base.py:_save_checkpoint)."""
    assert self.config.actor_rollout_ref.actor.checkpoint.async_save
    folder = self.folder / f"global_step_{self.global_steps}"
    assert json.loads((folder / "run_config.json").read_text()) == self.composed
    self.saved.append(self.global_steps)


@pytest.mark.parametrize("save_freq", [2, 25])
@pytest.mark.parametrize("ask_at", [1, 2, 3])
def test_training_that_is_asked_saves_once_and_ends_after_the_step(tmp_path, ask_at, save_freq):
    loop = fit(tmp_path, ask_at=ask_at, save_freq=save_freq)
    assert loop.taken == list(range(1, ask_at + 1))
    assert loop.saved == sorted({step for step in loop.taken if step % save_freq == 0} | {ask_at})
    others = sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("global_step_"))
    assert others == [TRACKER, "stopped"]
    assert (tmp_path / TRACKER).read_text() == str(ask_at)


@pytest.mark.parametrize("ask_at", [LAST_STEP, LAST_STEP + 1])
def test_training_at_its_end_ignores_the_request(tmp_path, ask_at):
    loop = fit(tmp_path, ask_at=ask_at, save_freq=25)
    assert (loop.taken, loop.saved) == ([1, 2, 3, 4], [LAST_STEP])
    assert not (tmp_path / "stopped").exists()


def fit(folder, make=Loop, **settings) -> Loop:
    loop = make(folder, **settings)
    with (
        mock.patch.multiple(PPOTrainerSync, step=verl_step, _save_checkpoint=verl_save),
        mock.patch.multiple(trainer_base, tq=mock.DEFAULT, SkipManager=mock.DEFAULT),
    ):
        loop.fit(agent_loop_manager=None)
    return loop


# When a checkpoint is named


def test_a_checkpoint_is_named_once_its_step_is_logged_and_older_ones_go_then(tmp_path):
    """Whatever ends a training in between costs the step, but neither its line in the log nor the way back."""
    folders = []

    class Watched(Loop):
        def _compute_metrics(self, *args, **kwargs):
            tracker = tmp_path / TRACKER
            named = tracker.read_text() if tracker.is_file() else None
            folders.append((named, sorted(path.name[-1] for path in tmp_path.glob("global_step_*"))))

    fit(tmp_path, save_freq=1, make=Watched)
    assert folders == [
        (None, ["1"]),
        ("1", ["1", "2"]),
        ("2", ["1", "2", "3"]),
        ("3", ["2", "3", "4"]),
    ]
    assert (tmp_path / TRACKER).read_text() == "4"
    assert sorted(path.name for path in tmp_path.glob("global_step_*")) == ["global_step_3", "global_step_4"]


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").touch()
    loop = Loop(tmp_path / "file" / "checkpoints")
    loop.global_steps = 3
    with pytest.raises(RuntimeError, match=r"The checkpoint of step 3 could not be saved in .*file/checkpoints"):
        loop._save_checkpoint()


def test_a_checkpoint_that_cannot_be_saved_is_not_named(tmp_path):
    def verl_save(self):
        raise OSError(28, "No space left on device")

    loop = Loop(tmp_path)
    loop.global_steps = 3
    with (
        mock.patch.object(PPOTrainerSync, "_save_checkpoint", verl_save),
        pytest.raises(RuntimeError, match=r"The checkpoint of step 3 could not be saved in .* MiB are free"),
    ):
        loop._save_checkpoint()
    loop._name_checkpoint()
    assert not (tmp_path / TRACKER).exists()


# The end after so many hours


class Clock:
    """A step takes `seconds` until `step` returns; verl then adds 2 s of handing over weights, and 5 s of saving."""

    def __init__(self, loop: Loop):
        self.loop, self.now = loop, 0.0

    def step(self, seconds: float) -> dict[str, float]:
        def verl_step(*_):
            self.now += seconds

        metrics, timing = {}, {}
        self.loop.global_steps += 1
        with (
            mock.patch.object(PPOTrainerSync, "step", verl_step),
            mock.patch("verl.sdpo.trainer.stop.time.perf_counter", lambda: self.now),
        ):
            self.loop.step(metrics, timing)
        timing |= {"step": seconds + 2 + 5, "save_checkpoint": 5, "testing": 1000}
        return metrics


def test_hours_are_those_of_steps_without_validation_and_saving(tmp_path):
    """By hand: 100 s; then 100 + 2 + 50 s; then 102 + 52 + 30 s."""
    clock = Clock(Loop(tmp_path))
    hours = [clock.step(seconds)["training/hours"] for seconds in (100, 50, 30)]
    assert [3600 * value for value in hours] == pytest.approx([100, 152, 184])


def test_training_ends_once_its_hours_are_over(tmp_path):
    loop = Loop(tmp_path, max_train_hours=150 / 3600)
    clock = Clock(loop)
    clock.step(100)
    assert (loop.total_training_steps, loop.config.trainer.save_freq) == (LAST_STEP, 25)
    clock.step(50)
    assert (loop.total_training_steps, loop.config.trainer.save_freq) == (2, 1)
    # It has come to its end: whoever waits for it must not start it again.
    assert not (tmp_path / "stopped").exists()


def test_such_an_end_saves_once(tmp_path):
    loop = fit(tmp_path, max_train_hours=0)
    assert (loop.taken, loop.saved) == ([1], [1])


@pytest.mark.parametrize("resume_mode", ["auto", "resume_path"])
def test_hours_survive_a_restart(tmp_path, resume_mode):
    first = Loop(tmp_path)
    clock = Clock(first)
    clock.step(100)
    clock.step(50)
    with mock.patch.object(PPOTrainerSync, "_save_checkpoint", verl_save):
        first._save_checkpoint()

    def verl_load(self):
        self.global_steps = 2

    # 152 s so far.
    for limit, last_step in ((None, LAST_STEP), (153, LAST_STEP), (152, 2)):
        folder = tmp_path if resume_mode == "auto" else tmp_path / "elsewhere"
        hours = None if limit is None else limit / 3600
        path = str(tmp_path / "global_step_2")
        again = Loop(folder, max_train_hours=hours, resume_mode=resume_mode, resume_from_path=path)
        with mock.patch.object(PPOTrainerSync, "_load_checkpoint", verl_load):
            again._load_checkpoint()
        assert again.total_training_steps == last_step
    assert 3600 * Clock(again).step(10)["training/hours"] == pytest.approx(162)


def test_a_checkpoint_of_another_trainer_counts_from_zero(tmp_path):
    loop = Loop(tmp_path, max_train_hours=1)
    with mock.patch.object(PPOTrainerSync, "_load_checkpoint", lambda self: setattr(self, "global_steps", 2)):
        loop._load_checkpoint()
    assert (loop.train_seconds, loop.total_training_steps) == (0.0, LAST_STEP)


OURS = {"sync_stoppable": "sync", "sdpo": "sync", "sdpo_ttt": "sync"} | {
    name: verls for verls in ("colocate_async", "separate_async") for name in (f"{verls}_stoppable", f"sdpo_{verls}")
}


@pytest.mark.parametrize(("name", "verls"), OURS.items())
def test_every_trainer_of_ours_is_one_of_verls_and_stoppable(name, verls):
    assert (STOPPABLE_MODES | TRAINER_MODES)[name] == verls
    assert issubclass(get_trainer_cls(name), StoppableMixin)
    assert issubclass(get_trainer_cls(name), get_trainer_cls(verls))


def test_there_are_no_others():
    assert OURS == STOPPABLE_MODES | TRAINER_MODES


@pytest.mark.parametrize(("name", "verls"), OURS.items())
def test_what_is_recorded_is_what_verl_was_started_with(name, verls):
    """The trainer changes its mode before verl sees it."""
    kept = {"max_actor_ckpt_to_keep": 3, "max_critic_ckpt_to_keep": 1}
    config = OmegaConf.create({"trainer": {"v1": {"trainer_mode": name}, "a": "${trainer.v1.trainer_mode}", **kept}})
    with mock.patch.object(PPOTrainerSync, "__init__", lambda self, config: None):
        trainer = type("Stoppable", (StoppableMixin, PPOTrainerSync), {})(config)
    assert trainer.composed == {"trainer": {"v1": {"trainer_mode": name}, "a": name, **kept}}
    assert config.trainer.v1.trainer_mode == verls
    # By these verl would delete checkpoints (trainer_base.py:_save_checkpoint).
    assert trainer.kept_checkpoints == 3
    assert config.trainer.max_actor_ckpt_to_keep is config.trainer.max_critic_ckpt_to_keep is None


def test_everything_else_is_verls_trainer():
    """The baseline is trained with it: nothing of the algorithm may be replaced."""
    own = {name for name in vars(StoppableMixin) if callable(getattr(StoppableMixin, name))}
    assert own & set(dir(PPOTrainerSync)) == {
        "__init__",
        "step",
        "_build_replay_buffer",
        "on_init_end",
        "on_sample_end",
        "on_step_begin",
        "on_step_end",
        "on_validate_begin",
        "_shutdown_dump_executor",
        "_save_checkpoint",
        "_load_checkpoint",
    }


def test_responses_that_have_come_are_not_waited_for(tmp_path):
    verls = mock.Mock(poll_interval=2.0)
    with mock.patch.object(PPOTrainerSync, "_build_replay_buffer", lambda self: verls):
        assert Loop(tmp_path)._build_replay_buffer() is verls
    assert verls.poll_interval < 0.5


def test_a_trainer_passes_over_a_torn_checkpoint(tmp_path):
    for step in (1, 2):
        folder = checkpoints.folder_of(tmp_path, step)
        folder.mkdir()
        (folder / "data.pt").write_bytes(b"order")
        checkpoints.seal(folder)
        checkpoints.name_latest(tmp_path, step)
    (tmp_path / "global_step_2" / "data.pt").write_bytes(b"")

    def verl_load(self):
        self.global_steps = int((tmp_path / TRACKER).read_text())

    loop = Loop(tmp_path)
    with mock.patch.object(PPOTrainerSync, "_load_checkpoint", verl_load):
        loop._load_checkpoint()
    assert loop.global_steps == 1


def test_whom_a_training_waits_for(tmp_path):
    """The agent loops are made after the first hand-over of weights."""
    loop = Loop(tmp_path)
    replicas = [SimpleNamespace(servers=["head", "second node"]), SimpleNamespace(servers=["other"])]
    loop.llm_server_manager = SimpleNamespace(get_replicas=lambda: replicas)
    loop.reward_loop_manager = SimpleNamespace(reward_loop_workers=["grader"])
    loop.actor_rollout_wg = SimpleNamespace(workers=["rank"])
    known = {
        "reward worker 0": "grader",
        "rollout server 0": "head",
        "rollout server 1": "second node",
        "rollout server 2": "other",
        "training worker 0": "rank",
    }
    assert loop._actors() == known
    loop.agent_loop_manager = SimpleNamespace(agent_loop_workers=["loop"])
    assert loop._actors() == known | {"agent loop worker 0": "loop"}
