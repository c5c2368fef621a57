"""The ends of a run: when asked, and after its hours. `fit` is stock verl's; everything that trains is taken out."""

from types import SimpleNamespace
from unittest import mock

import pytest
from omegaconf import OmegaConf

from tests.sdpo.trainer.fakes import fit, make_trainer, trainer_config
from verl.sdpo.runs.checkpoints import TRACKER
from verl.sdpo.trainer.limits import TimeBudget

LAST_STEP = 4


def run(folder, ask_at=99, **trainer):
    """A run in which the file `stop` appears during step `ask_at`."""
    made = make_trainer(trainer_config(folder, **trainer), LAST_STEP)
    return fit(made, lambda step: (folder / "stop").touch() if step == ask_at else None)


@pytest.mark.parametrize("save_freq", [2, 25])
@pytest.mark.parametrize("ask_at", [1, 2, 3])
def test_training_that_is_asked_saves_once_and_ends_after_the_step(tmp_path, ask_at, save_freq):
    trainer = run(tmp_path, ask_at, save_freq=save_freq)
    assert trainer.taken == list(range(1, ask_at + 1))
    saved = sorted({step for step in trainer.taken if step % save_freq == 0} | {ask_at})
    assert trainer.done == [f"save {step}" for step in saved]
    others = sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("global_step_"))
    assert others == [TRACKER, "stopped"]
    assert (tmp_path / TRACKER).read_text() == str(ask_at)


@pytest.mark.parametrize("ask_at", [LAST_STEP, LAST_STEP + 1])
def test_training_at_its_end_ignores_the_request(tmp_path, ask_at):
    trainer = run(tmp_path, ask_at)
    assert (trainer.taken, trainer.done) == ([1, 2, 3, 4], [f"save {LAST_STEP}"])
    assert not (tmp_path / "stopped").exists()


def budget(hours=None) -> TimeBudget:
    return TimeBudget(OmegaConf.create({"trainer": {"max_train_hours": hours}}))


def take(budget: TimeBudget, seconds: float) -> tuple[bool, float]:
    """Take a step of `seconds` until verl's `step` returns. verl adds 2 s of weight sync, and 5 s of saving.

    Returns:
        Whether it asks for the end, and the reported time in seconds.
    """
    clock = iter([0.0, seconds])
    with mock.patch("verl.sdpo.trainer.limits.time.perf_counter", lambda: next(clock)):
        budget.before_step()
        stops = budget.should_stop()
    metrics = {"timing_s/step": seconds + 2 + 5, "timing_s/save_checkpoint": 5, "timing_s/testing": 1000}
    budget.after_step(1, None, metrics)
    return stops, 3600 * metrics["training/hours"]


def test_hours_are_those_of_steps_without_validation_and_saving():
    """By hand: 100 s; then 100 + 2 + 50 s; then 102 + 52 + 30 s."""
    spent = budget()
    assert [take(spent, seconds)[1] for seconds in (100, 50, 30)] == pytest.approx([100, 152, 184])


def test_a_run_ends_once_its_hours_are_over():
    spent = budget(150 / 3600)
    assert [take(spent, seconds)[0] for seconds in (100, 50)] == [False, True]


def test_such_an_end_saves_once(tmp_path):
    trainer = make_trainer(trainer_config(tmp_path, max_train_hours=1), LAST_STEP)
    (limit,) = (each for each in trainer.extensions if isinstance(each, TimeBudget))
    limit.max_hours = 0
    fit(trainer)
    assert (trainer.taken, trainer.done) == ([1], ["save 1"])
    # It has come to its end: the program that waits for it must not start it again.
    assert not (tmp_path / "stopped").exists()


def test_hours_survive_a_restart(tmp_path):
    first = budget()
    take(first, 100)
    take(first, 50)
    first.on_save(2, tmp_path)
    # 152 s so far.
    for limit, ends in ((None, False), (153 / 3600, False), (152 / 3600, True)):
        again = budget(limit)
        again.on_load(2, tmp_path)
        ended = []
        again.on_start(SimpleNamespace(end_after_this_step=lambda save, ended=ended: ended.append(save)))
        assert ended == [False] * ends
    assert take(again, 10)[1] == pytest.approx(162)


def test_a_checkpoint_of_another_trainer_counts_from_zero(tmp_path):
    spent = budget(1)
    spent.on_load(2, tmp_path)
    assert spent.seconds_before == 0.0
