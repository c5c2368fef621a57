"""Which checkpoint is named when, and which ones are deleted."""

import json
from unittest import mock

import pytest
from omegaconf import OmegaConf

from tests.sdpo.trainer.fakes import fit, make_trainer, trainer_config
from verl.sdpo.runs import checkpoints
from verl.sdpo.runs.checkpoints import TRACKER
from verl.sdpo.trainer.hooks import Extension
from verl.sdpo.trainer.saving import CheckpointSaver
from verl.trainer.ppo.v1.trainer_base import PPOTrainer


def test_a_checkpoint_is_named_once_its_step_is_logged_and_older_ones_go_then(tmp_path):
    """Whatever ends a training in between costs the step, but neither its line in the log nor the way back."""
    folders = []

    class Observer(Extension):
        def after_step(self, step, batch, metrics):
            tracker = tmp_path / TRACKER
            named = tracker.read_text() if tracker.is_file() else None
            folders.append((named, sorted(path.name[-1] for path in tmp_path.glob("global_step_*"))))

    trainer = make_trainer(trainer_config(tmp_path, save_freq=1), 4)
    trainer.extensions.append(Observer(trainer.config))
    fit(trainer)
    assert folders == [
        (None, ["1"]),
        ("1", ["1", "2"]),
        ("2", ["1", "2", "3"]),
        ("3", ["2", "3", "4"]),
    ]
    assert (tmp_path / TRACKER).read_text() == "4"
    assert sorted(path.name for path in tmp_path.glob("global_step_*")) == ["global_step_3", "global_step_4"]


def saver(folder) -> CheckpointSaver:
    return CheckpointSaver(trainer_config(folder))


def test_a_folder_that_cannot_be_made_is_reported(tmp_path):
    (tmp_path / "file").touch()
    expected = r"The checkpoint of step 3 could not be saved in .*file/checkpoints"
    with pytest.raises(RuntimeError, match=expected), saver(tmp_path / "file" / "checkpoints").saving(3):
        pass


def test_a_checkpoint_that_cannot_be_saved_is_not_named(tmp_path):
    failing = saver(tmp_path)
    expected = r"The checkpoint of step 3 could not be saved in .* MiB are free"
    with pytest.raises(RuntimeError, match=expected), failing.saving(3):
        raise OSError(28, "No space left on device")
    failing.name_saved()
    assert not (tmp_path / TRACKER).exists()


@pytest.mark.parametrize("mode", ["sync_stoppable", "sdpo", "sdpo_colocate_async", "separate_async_stoppable"])
def test_a_checkpoint_holds_the_configuration_that_verl_was_started_with(tmp_path, mode):
    """The trainer changes its mode before verl sees it."""
    config = trainer_config(tmp_path, mode, max_actor_ckpt_to_keep=3, a="${trainer.v1.trainer_mode}")
    composed = OmegaConf.to_container(config, resolve=True)
    trainer = make_trainer(config, 1, kind=trainer_kind(mode))
    assert config.trainer.v1.trainer_mode != mode
    # By these verl would delete checkpoints (trainer_base.py:_save_checkpoint).
    assert config.trainer.max_actor_ckpt_to_keep is config.trainer.max_critic_ckpt_to_keep is None
    with trainer.checkpoints.saving(1) as folder:
        pass
    assert json.loads((folder / "run_config.json").read_text()) == composed


def trainer_kind(mode: str) -> type:
    """A trainer of that mode without extensions, which would want more of the configuration."""
    from verl.trainer.ppo.v1 import get_trainer_cls

    return type("Bare", (get_trainer_cls(mode),), {"extension_types": ()})


def test_a_trainer_passes_over_an_incomplete_checkpoint(tmp_path):
    for step in (1, 2):
        folder = checkpoints.folder_of(tmp_path, step)
        folder.mkdir()
        (folder / "data.pt").write_bytes(b"order")
        checkpoints.write_manifest(folder)
        checkpoints.commit(tmp_path, step)
    (tmp_path / "global_step_2" / "data.pt").write_bytes(b"")

    def verl_load(self):
        self.global_steps = int((tmp_path / TRACKER).read_text())

    trainer = make_trainer(trainer_config(tmp_path), 4)
    with mock.patch.object(PPOTrainer, "_load_checkpoint", verl_load):
        trainer._load_checkpoint()
    assert trainer.global_steps == 1
