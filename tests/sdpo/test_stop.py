"""`fit` and the choice of when to save are stock verl's; everything that trains is taken out."""

from unittest import mock

import pytest
from omegaconf import OmegaConf

from verl.trainer.ppo.v1 import get_trainer_cls, trainer_base
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

LAST_STEP = 4
StoppableTrainer = get_trainer_cls("sync_stoppable")


class Loop(StoppableTrainer):
    """Records the steps taken and saved. The file `stop` appears during step `ask_at`."""

    trainer_mode = "sync"

    def __init__(self, folder, *, ask_at: int, save_freq: int):
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
                },
                "global_profiler": {"steps": None, "profile_continuous_steps": False},
            }
        )
        self.folder, self.ask_at = folder, ask_at
        self.total_training_steps = self.steps_per_epoch = LAST_STEP
        self.global_steps = 0
        self.taken, self.saved = [], []
        self._init_dump_executor()

    def on_step_end(self):
        self.taken.append(self.global_steps)

    def _save_checkpoint(self):
        self.saved.append(self.global_steps)

    def _compute_metrics(self, *args, **kwargs):
        pass


def verl_step(self, metrics, timing_raw):
    if self.global_steps == self.ask_at:
        (self.folder / "stop").touch()
    return mock.Mock()


@pytest.mark.parametrize("save_freq", [2, 25])
@pytest.mark.parametrize("ask_at", [1, 2, 3])
def test_training_that_is_asked_saves_once_and_ends_after_the_step(tmp_path, ask_at, save_freq):
    loop = fit(tmp_path, ask_at=ask_at, save_freq=save_freq)
    assert loop.taken == list(range(1, ask_at + 1))
    assert loop.saved == sorted({step for step in loop.taken if step % save_freq == 0} | {ask_at})
    assert [path.name for path in tmp_path.iterdir()] == ["stopped"]


@pytest.mark.parametrize("ask_at", [LAST_STEP, LAST_STEP + 1])
def test_training_at_its_end_ignores_the_request(tmp_path, ask_at):
    loop = fit(tmp_path, ask_at=ask_at, save_freq=25)
    assert (loop.taken, loop.saved) == ([1, 2, 3, 4], [LAST_STEP])
    assert not (tmp_path / "stopped").exists()


def fit(folder, **settings) -> Loop:
    loop = Loop(folder, **settings)
    with (
        mock.patch.object(PPOTrainerSync, "step", verl_step),
        mock.patch.multiple(trainer_base, tq=mock.DEFAULT, SkipManager=mock.DEFAULT),
    ):
        loop.fit(agent_loop_manager=None)
    return loop


def test_everything_else_is_verls_synchronous_trainer():
    """The baseline is trained by this class: nothing of the algorithm may be replaced."""
    assert StoppableTrainer.__mro__[1] is PPOTrainerSync
    assert {name for name in vars(StoppableTrainer) if callable(getattr(StoppableTrainer, name))} == {
        "__init__",
        "step",
    }
    assert issubclass(get_trainer_cls("sdpo"), StoppableTrainer)
