"""Whole trainings over verl's asynchronous trainers, held against the synchronous one."""

import pytest

from tests.e2e.test_train import metrics_of

pytestmark = pytest.mark.e2e

COMMON = ("actor_rollout_ref.actor.optim.lr=1e-3",)
COLOCATE = (*COMMON, "trainer.v1.trainer_mode=sdpo_colocate_async")
# Weights reach vLLM over TCP. The machine has a second logical accelerator.
SEPARATE = (
    *COMMON,
    "trainer.v1.trainer_mode=sdpo_separate_async",
    "actor_rollout_ref.rollout.nnodes=1",
    "actor_rollout_ref.rollout.n_gpus_per_node=1",
    "actor_rollout_ref.rollout.checkpoint_engine.backend=tcp",
    "ray_kwargs.ray_init.num_gpus=2",
)
WARM_UP = "trainer.v1.colocate_async.num_warmup_batches"
STALENESS = "training/off_policy/trajectory_staleness_worst/max"


@pytest.fixture(scope="module")
def stale(train, tmp_path_factory):
    """A batch is always being generated beside the one that is waited for."""
    folder = tmp_path_factory.mktemp("stale")
    run = train(folder, *COLOCATE, f"{WARM_UP}=1", "trainer.total_training_steps=3", "trainer.save_freq=2")
    return folder, metrics_of(run, folder)


@pytest.fixture(scope="module")
def synchronous(train, tmp_path_factory):
    folder = tmp_path_factory.mktemp("synchronous")
    return metrics_of(train(folder, *COMMON, "trainer.total_training_steps=3"), folder)


@pytest.mark.parametrize(
    "overrides",
    [
        (*COLOCATE, f"{WARM_UP}=0"),
        (
            *SEPARATE,
            "trainer.v1.separate_async.num_warmup_batches=0",
            "trainer.v1.separate_async.parameter_sync_step=1",
        ),
    ],
    ids=["colocate_async", "separate_async"],
)
def test_losses_without_staleness_are_those_of_the_synchronous_trainer(synchronous, train, tmp_path, overrides):
    steps = metrics_of(train(tmp_path, *overrides, "trainer.total_training_steps=3"), tmp_path)
    for step, expected in zip(steps, synchronous, strict=True):
        assert step[STALENESS] == 0
        assert step["critic/score/mean"] == expected["critic/score/mean"]
        for name in ("actor/pg_loss", "self_distillation/kl", "self_distillation/teacher_student_distance"):
            assert step[name] == pytest.approx(expected[name], rel=1e-5), name


def test_staleness_is_logged_and_corrected(stale):
    _, steps = stale
    assert len(steps) == 3
    assert steps[0][STALENESS] == 0
    assert max(step[STALENESS] for step in steps) >= 1
    for step in steps:
        assert step["actor/pg_loss"] > 0
        assert step["rollout_corr/rollout_is_max"] <= 2


def test_a_resumed_run_goes_on_with_what_was_being_generated(stale, train, tmp_path):
    folder, _ = stale
    run = train(
        tmp_path,
        *(*COLOCATE, f"{WARM_UP}=1", "trainer.total_training_steps=3", "trainer.resume_mode=resume_path"),
        f"trainer.resume_from_path={folder / 'checkpoints' / 'global_step_2'}",
    )
    (step,) = metrics_of(run, tmp_path)
    assert step["training/global_step"] == 3
    assert step["self_distillation/teacher_student_distance"] > 0
    assert "Restored 4 training prompt groups" in run.stdout


def test_several_updates_between_two_hand_overs_of_the_weights(train, tmp_path):
    """Of half a batch each."""
    run = train(
        tmp_path,
        *SEPARATE,
        "trainer.v1.separate_async.parameter_sync_step=2",
        "actor_rollout_ref.actor.ppo_mini_batch_size=2",
        "algorithm.rollout_correction.bypass_mode=True",
        "trainer.total_training_steps=3",
    )
    steps = metrics_of(run, tmp_path)
    assert len(steps) == 3
    assert max(step[STALENESS] for step in steps) >= 1
    assert all(step["actor/pg_loss"] > 0 for step in steps)
    distances = [step["self_distillation/teacher_student_distance"] for step in steps]
    assert distances == sorted(distances)
