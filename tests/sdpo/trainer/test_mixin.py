"""The mixin over verl's trainers: which hooks it calls, and that the rest is verl's."""

from types import SimpleNamespace
from unittest import mock

import pytest

from tests.sdpo.trainer.fakes import Queue, entry, fit, make_trainer, trainer_config
from verl.sdpo.config import STOPPABLE_MODES, TRAINER_MODES
from verl.sdpo.trainer.hooks import Extension, RunControl
from verl.sdpo.trainer.mixin import ExtendedTrainer
from verl.sdpo.trainer.trainers import EVERY_RUN, SDPO
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

OURS = {"sync_stoppable": "sync", "sdpo": "sync", "sdpo_ttt": "sync"} | {
    name: verls for verls in ("colocate_async", "separate_async") for name in (f"{verls}_stoppable", f"sdpo_{verls}")
}


@pytest.mark.parametrize(("name", "verls"), OURS.items())
def test_every_trainer_of_ours_is_one_of_verls_with_a_list_of_extensions(name, verls):
    assert (STOPPABLE_MODES | TRAINER_MODES)[name] == verls
    assert issubclass(get_trainer_cls(name), ExtendedTrainer)
    assert issubclass(get_trainer_cls(name), get_trainer_cls(verls))
    assert get_trainer_cls(name).extension_types[-len(EVERY_RUN) :] == EVERY_RUN
    assert get_trainer_cls(name).extension_types[-len(SDPO) :] == (SDPO if name in TRAINER_MODES else EVERY_RUN)


def test_there_are_no_others():
    assert OURS == STOPPABLE_MODES | TRAINER_MODES


def test_everything_else_is_verls_trainer():
    """The baseline is trained with it: nothing of the algorithm may be replaced."""
    own = {name for name in vars(ExtendedTrainer) if callable(getattr(ExtendedTrainer, name))}
    assert own & set(dir(PPOTrainerSync)) == {
        "__init__",
        "step",
        "_build_replay_buffer",
        "_compute_metrics",
        "_init_resource_pool_mgr",
        "_load_checkpoint",
        "_save_checkpoint",
        "_shutdown_dump_executor",
        "_update_actor",
        "_validate",
        "on_init_end",
        "on_sample_end",
        "on_step_begin",
        "on_step_end",
        "on_validate_begin",
    }


class Recorder(Extension):
    """Records the hooks that are called, each with the step."""

    def __init__(self, config):
        super().__init__(config)
        self.called = []

    def on_load(self, step, folder):
        self.called.append(("on_load", step, folder.name))

    def on_start(self, run):
        self.called.append(("on_start", run.global_steps))

    def before_step(self):
        self.called.append("before_step")

    def should_stop(self):
        self.called.append("should_stop")
        return False

    def may_save(self, step):
        self.called.append(("may_save", step))
        return step != 1

    def on_save(self, step, folder):
        self.called.append(("on_save", step, folder.name))

    def after_step(self, step, batch, metrics):
        self.called.append(("after_step", step, metrics["critic/score/mean"]))


def test_hooks_are_called_in_the_course_of_a_run(tmp_path):
    trainer = make_trainer(trainer_config(tmp_path, save_freq=1), 2)
    recorder = Recorder(trainer.config)
    trainer.extensions.append(recorder)
    trainer._init_resource_pool_mgr, trainer.checkpoint_manager.update_weights = mock.Mock(), mock.Mock()
    trainer.on_init_end()
    fit(trainer, **{"critic/score/mean": [0.5, 0.75]})
    steps = [
        ["before_step", "should_stop", ("may_save", 1), ("after_step", 1, 0.5)],
        # The last step is saved anyway.
        ["before_step", "should_stop", ("on_save", 2, "global_step_2"), ("after_step", 2, 0.75)],
    ]
    assert recorder.called == [("on_start", 0), *steps[0], *steps[1]]


@pytest.mark.parametrize("resume_mode", ["auto", "resume_path"])
def test_extensions_load_from_the_checkpoint_that_verl_loads(tmp_path, resume_mode):
    path = str(tmp_path / "elsewhere" / "global_step_2")
    trainer = make_trainer(trainer_config(tmp_path, resume_mode=resume_mode, resume_from_path=path), 4)
    loaded = []
    for extension in trainer.extensions:
        extension.on_load = lambda step, folder: loaded.append((step, folder))
    with mock.patch.object(PPOTrainer, "_load_checkpoint", lambda self: setattr(self, "global_steps", 2)):
        trainer._load_checkpoint()
    folder = tmp_path / "elsewhere" if resume_mode == "resume_path" else tmp_path
    assert loaded == [(2, folder / "global_step_2")] * len(trainer.extensions)
    loaded.clear()
    with mock.patch.object(PPOTrainer, "_load_checkpoint", lambda self: setattr(self, "global_steps", 0)):
        trainer._load_checkpoint()
    assert loaded == []


def update(trainer, batch, monkeypatch):
    """Run `_update_actor`; returns the batch that comes back, those that verl's saw, and the metrics."""
    seen, metrics = [], {}

    def verls(self, batch, metrics):
        seen.append(batch)
        metrics |= {"actor/self_distillation/kl": 0.5, "actor/lr": 1e-5}
        return batch

    trainer.timing_raw = {}
    monkeypatch.setattr(PPOTrainer, "_update_actor", verls)
    return trainer._update_actor(batch, metrics=metrics), seen, metrics


def test_without_sdpo_a_batch_goes_to_verl_as_it_is(tmp_path, monkeypatch):
    """TransferQueue is neither read nor written."""
    trainer, batch = make_trainer(trainer_config(tmp_path), 4), object()
    returned, seen, metrics = update(trainer, batch, monkeypatch)
    assert returned is batch and seen == [batch]
    assert metrics == {"self_distillation/kl": 0.5, "actor/lr": 1e-5}
    assert trainer.timing_raw == {}


def test_an_extension_may_skip_an_update(tmp_path, monkeypatch):
    class Skip(Extension):
        def before_update(self, update):
            update.is_skipped = True

    trainer, batch = make_trainer(trainer_config(tmp_path), 4), object()
    trainer.extensions = [Skip(trainer.config), mock.Mock(before_update=mock.Mock(side_effect=AssertionError))]
    assert update(trainer, batch, monkeypatch) == (batch, [], {})


def test_columns_of_an_update_go_on_with_the_batch(monkeypatch):
    import torch

    from verl.sdpo.trainer.samples import write_columns

    queue = Queue({"q_0_0": entry("q", "x"), "q_1_0": entry("q", "y")})
    monkeypatch.setattr("verl.sdpo.trainer.samples.tq", queue)
    made = queue.update()
    made.columns["weight"], made.order = torch.tensor([1.0, 2.0]), [1, 0]
    batch = write_columns(made)
    assert batch is queue.meta
    assert queue.written["weight"].tolist() == [1.0, 2.0]
    assert batch.keys == ["q_1_0", "q_0_0"]
    assert batch.extra_info == {"of": "the write", "temperature": 0.6}


def test_a_trainer_has_what_extensions_may_use():
    requests = {name for name in vars(RunControl) if not name.startswith("_")}
    assert requests <= set(dir(ExtendedTrainer))


def test_responses_that_have_come_are_not_waited_for(tmp_path):
    verls = mock.Mock(poll_interval=2.0)
    with mock.patch.object(PPOTrainer, "_build_replay_buffer", lambda self: verls):
        assert make_trainer(trainer_config(tmp_path), 4)._build_replay_buffer() is verls
    assert verls.poll_interval < 0.5


def test_the_actors_that_a_training_waits_for(tmp_path):
    """The agent loops are made after the first weight sync."""
    trainer = make_trainer(trainer_config(tmp_path), 4)
    del trainer._actors
    replicas = [SimpleNamespace(servers=["head", "second node"]), SimpleNamespace(servers=["other"])]
    trainer.llm_server_manager = SimpleNamespace(get_replicas=lambda: replicas)
    trainer.reward_loop_manager = SimpleNamespace(reward_loop_workers=["grader"])
    trainer.actor_rollout_wg = SimpleNamespace(workers=["rank"])
    known = {
        "reward worker 0": "grader",
        "rollout server 0": "head",
        "rollout server 1": "second node",
        "rollout server 2": "other",
        "training worker 0": "rank",
    }
    assert trainer._actors() == known
    trainer.agent_loop_manager = SimpleNamespace(agent_loop_workers=["loop"])
    assert trainer._actors() == known | {"agent loop worker 0": "loop"}
