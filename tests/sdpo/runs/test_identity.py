"""A run goes on under the configuration that it began with, or not at all."""

import json

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

import verl  # noqa: F401  lets Hydra find our configurations
from verl.sdpo.preflight import validation
from verl.sdpo.preflight.data_files import check_files, check_rewards
from verl.sdpo.runs.identity import check, plain, record

BLOCK = "actor_rollout_ref.actor.self_distillation"


@pytest.fixture(scope="module")
def composed():
    """`make(*overrides)` composes `sdpo`."""
    with initialize_config_module("verl.trainer.config", version_base=None):
        yield lambda *overrides: compose("sdpo", ["machine=gpu", "trainer.experiment_name=run", *overrides])


@pytest.fixture
def make(composed, tmp_path):
    return lambda *overrides: composed(f"vars.ckpt_dir={tmp_path}", f"vars.dir={tmp_path / 'data'}", *overrides)


@pytest.fixture
def folder(make, tmp_path):
    """The folder of a run with checkpoints of two configurations, of which the later is the latest."""
    folder = tmp_path / "run"
    record(plain(make("vars.seed=9")), folder / "global_step_1")
    record(plain(make()), folder / "global_step_2")
    (folder / "latest_checkpointed_iteration.txt").write_text("2")
    return folder


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        # Names, reports, ends
        ["trainer.logger=[console]", "trainer.project_name=other", "trainer.save_freq=1", "trainer.max_train_hours=2"],
        [
            "trainer.total_training_steps=7",
            "trainer.total_epochs=2",
            "trainer.rollout_data_dir=/x",
            "insight.max_samples=0",
        ],
        # Validation
        ["trainer.test_freq=-1", "trainer.val_before_train=False", "actor_rollout_ref.rollout.val_kwargs.n=16"],
        ["data.val_files=[/elsewhere/other.parquet]", "data.val_batch_size=3"],
        # The machine
        [
            "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4",
            "actor_rollout_ref.rollout.gpu_memory_utilization=0.3",
        ],
        ["trainer.n_gpus_per_node=2", "actor_rollout_ref.rollout.tensor_model_parallel_size=1"],
        ["actor_rollout_ref.actor.fsdp_config.param_offload=True", "ray_kwargs.ray_init.num_cpus=3"],
        ["data.dataloader_num_workers=0", "reward.num_workers=1", f"{BLOCK}.max_grader_error_rate=0.5"],
        [f"{BLOCK}.teacher_placement=gpu", f"{BLOCK}.head=eager"],
    ],
)
def test_a_run_goes_on_where_nothing_that_trains_has_changed(make, folder, overrides):
    check(make(*overrides))


def test_the_refilling_samplers_copy_of_the_block_is_not_compared_again(make, folder):
    record(plain(make("data.refill_until_target=2")), folder / "global_step_2")
    check(make("data.refill_until_target=2", f"{BLOCK}.head=eager", f"{BLOCK}.max_grader_error_rate=0.5"))
    with pytest.raises(ValueError) as raised:
        check(make("data.refill_until_target=2", f"{BLOCK}.alpha=1.0"))
    assert str(raised.value).count("was 0.5, now 1.0") == 1


@pytest.mark.parametrize(
    ("override", "was", "now"),
    [
        (f"{BLOCK}.teacher_regularization=frozen", "ema", "frozen"),
        (f"{BLOCK}.alpha=1.0", 0.5, 1.0),
        ("actor_rollout_ref.actor.loss_agg_mode=token-mean", "seq-mean-token-mean", "token-mean"),
        ("actor_rollout_ref.actor.optim.lr=2e-5", 1e-5, 2e-5),
        ("actor_rollout_ref.rollout.n=4", 8, 4),
        ("actor_rollout_ref.rollout.temperature=0.5", 1.0, 0.5),
        ("actor_rollout_ref.model.path=me/other", "Qwen/Qwen3-8B", "me/other"),
        ("data.train_files=/other.parquet", "datasets/train.parquet", "/other.parquet"),
        ("+reward.custom_reward_function.reward_kwargs.mode=lcb-official", "absent", "lcb-official"),
        ("actor_rollout_ref.actor.fsdp_config.model_dtype=bf16", "fp32", "bf16"),
        ("trainer.balance_batch=False", True, False),
    ],
)
def test_another_configuration_is_refused_with_both_values(make, folder, override, was, now):
    key = override.lstrip("+").partition("=")[0]
    with pytest.raises(ValueError) as error:
        check(make(override))
    text = str(error.value)
    assert (
        f"trainer.experiment_name=run would continue {folder / 'global_step_2'}, which was trained with another" in text
    )
    assert f"  {key}: was {was!r}, now {now!r}\n" in text
    assert "another trainer.experiment_name" in text
    assert "trainer.logger" not in text


def test_a_new_seed_is_named_wherever_it_reaches(make, folder):
    with pytest.raises(ValueError, match=r"vars\.seed: was 0, now 9") as error:
        check(make("vars.seed=9"))
    assert "actor_rollout_ref.rollout.seed: was 0, now 9" in str(error.value)


def test_with_a_falling_learning_rate_the_length_matters(make, folder):
    cosine = "actor_rollout_ref.actor.optim.lr_scheduler_type=cosine"
    record(plain(make(cosine, "trainer.total_training_steps=5")), folder / "global_step_2")
    check(make(cosine, "trainer.total_training_steps=5"))
    with pytest.raises(ValueError, match=r"trainer\.total_training_steps: was 5, now 6"):
        check(make(cosine, "trainer.total_training_steps=6"))


def test_the_folder_of_the_data_may_move(composed, folder, tmp_path):
    check(composed(f"vars.ckpt_dir={tmp_path}", "vars.dir=/moved"))


@pytest.mark.parametrize("missing", ["latest_checkpointed_iteration.txt", "global_step_2/run_config.json"])
def test_without_a_checkpoint_or_its_record_there_is_nothing_to_compare(make, folder, missing):
    (folder / missing).unlink()
    check(make("vars.seed=9"))


@pytest.mark.parametrize("mode", ["disable", "resume_path"])
def test_whoever_does_not_resume_by_name_is_let_through(make, folder, mode):
    check(make("vars.seed=9", f"trainer.resume_mode={mode}"))


def test_it_is_asked_before_ray(make, folder, monkeypatch):
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    without_data = [each for each in validation.CHECKS if each not in (check_files, check_rewards)]
    monkeypatch.setattr(validation, "CHECKS", without_data)
    validation.validate(make())
    with pytest.raises(ValueError, match="would continue"):
        validation.validate(make("vars.seed=9"))


def test_the_record_is_readable_and_complete(make, folder):
    tree = json.loads((folder / "global_step_2" / "run_config.json").read_text())
    assert tree == OmegaConf.to_container(make(), resolve=True)
    assert [path.name for path in (folder / "global_step_2").iterdir()] == ["run_config.json"]
