"""The effective configuration of every run against the paper, its values written down here by hand.

Sources: arXiv 2601.20802 (Table 12 as quoted by others) and the launch scripts of the authors' repository.
"""

import itertools
import subprocess
from collections import Counter

import pytest
from omegaconf import OmegaConf

from experiments.effective_config import compose_runs, table
from tests.experiments.conftest import REPO, SCRIPTS
from verl.sdpo.adapters.validation import validate_training_config

ACTOR = "actor_rollout_ref.actor"
ROLLOUT = "actor_rollout_ref.rollout"
DISTILLATION = f"{ACTOR}.self_distillation"

COMMON = {
    "data.train_batch_size": 32,
    "data.max_prompt_length": 2048,
    "data.max_response_length": 8192,
    "data.apply_chat_template_kwargs.enable_thinking": False,
    f"{ROLLOUT}.n": 8,
    f"{ROLLOUT}.temperature": 1.0,
    f"{ROLLOUT}.top_p": 1,
    f"{ROLLOUT}.calculate_log_probs": True,
    f"{ROLLOUT}.val_kwargs.do_sample": True,
    f"{ROLLOUT}.val_kwargs.temperature": 0.6,
    f"{ROLLOUT}.val_kwargs.top_p": 0.95,
    f"{ACTOR}.optim.clip_grad": 1.0,
    f"{ACTOR}.optim.lr_scheduler_type": "constant",
    f"{ACTOR}.use_kl_loss": False,
    f"{ACTOR}.entropy_coeff": 0,
    f"{ACTOR}.ppo_epochs": 1,
    f"{ACTOR}.loss_agg_mode": "seq-mean-token-mean",
    "algorithm.use_kl_in_reward": False,
    "algorithm.adv_estimator": "grpo",
    "algorithm.norm_adv_by_std_in_grpo": False,
    "algorithm.rollout_correction.rollout_is": "token",
    "algorithm.rollout_correction.rollout_is_threshold": 2.0,
    "trainer.n_gpus_per_node": 4,
    "trainer.nnodes": 1,
    "trainer.total_epochs": 30,
    "trainer.test_freq": 5,
    "trainer.resume_mode": "auto",
    "trainer.val_before_train": True,
}
SDPO = COMMON | {
    f"{ACTOR}.policy_loss.loss_mode": "sdpo",
    f"{ROLLOUT}.max_model_len": 18944,
    f"{DISTILLATION}.full_logit_distillation": True,
    f"{DISTILLATION}.distillation_add_tail": True,
    f"{DISTILLATION}.teacher_regularization": "ema",
    f"{DISTILLATION}.teacher_update_interval": "step",
    f"{DISTILLATION}.is_clip": 2.0,
    f"{DISTILLATION}.denominator": "all",
    f"{DISTILLATION}.max_reprompt_len": 10240,
    f"{DISTILLATION}.success_reward_threshold": 1.0,
    f"{DISTILLATION}.dont_reprompt_on_self_success": True,
    f"{DISTILLATION}.environment_feedback_only_without_solution": True,
    f"{DISTILLATION}.remove_thinking_from_demonstration": True,
    "trainer.v1.trainer_mode": "sdpo",
}
GRPO = COMMON | {
    f"{ACTOR}.policy_loss.loss_mode": "vanilla",
    f"{ACTOR}.clip_ratio_low": 0.2,
    f"{ACTOR}.clip_ratio_high": 0.28,
    f"{ROLLOUT}.max_model_len": 10240,
    "trainer.v1.trainer_mode": "sync_stoppable",
}
EXPECTED = {
    "generalization/run_sdpo_all.sh": SDPO
    | {
        f"{ACTOR}.optim.lr": 1e-5,
        f"{ACTOR}.optim.lr_warmup_steps": 10,
        f"{ACTOR}.ppo_mini_batch_size": 32,
        f"{DISTILLATION}.alpha": 0.5,
        f"{DISTILLATION}.distillation_topk": 100,
        f"{DISTILLATION}.teacher_update_rate": 0.05,
        f"{DISTILLATION}.include_environment_feedback": False,
        f"{ROLLOUT}.val_kwargs.n": 16,
    },
    "generalization/run_baseline_grpo_all.sh": GRPO
    | {f"{ACTOR}.optim.lr_warmup_steps": 10, f"{ROLLOUT}.val_kwargs.n": 16},
    "rich_feedback/run_sdpo.sh": SDPO
    | {
        f"{ACTOR}.optim.lr": 1e-6,
        f"{ACTOR}.optim.lr_warmup_steps": 0,
        f"{ACTOR}.ppo_mini_batch_size": 1,
        f"{DISTILLATION}.alpha": 1.0,
        f"{DISTILLATION}.distillation_topk": 20,
        f"{DISTILLATION}.teacher_update_rate": 0.01,
        f"{DISTILLATION}.include_environment_feedback": True,
        f"{ROLLOUT}.val_kwargs.n": 4,
    },
    "rich_feedback/run_baseline_grpo.sh": GRPO
    | {
        f"{ACTOR}.optim.lr": 1e-6,
        f"{ACTOR}.optim.lr_warmup_steps": 0,
        f"{ACTOR}.ppo_mini_batch_size": 8,
        f"{ROLLOUT}.val_kwargs.n": 4,
    },
}
DATASETS = [f"datasets/sciknoweval/{name}" for name in ("biology", "chemistry", "material", "physics")]
DATASETS += ["datasets/tooluse"]
MODELS = ["Qwen/Qwen3-8B", "allenai/Olmo-3-7B-Instruct"]
SEED = 3


@pytest.fixture(scope="module")
def runs():
    """The composed configurations of every script: {script: {name: configuration}}."""
    listed = {script: list_runs(script) for script in SCRIPTS}
    composed = compose_runs([line for lines in listed.values() for line in lines])
    return {
        script: {line.split("\t")[0]: composed[line.split("\t")[0]] for line in listed[script]} for script in SCRIPTS
    }


def list_runs(script: str) -> list[str]:
    command = ["bash", str(REPO / "experiments" / script), "--list"]
    environment = {"PATH": "/usr/bin:/bin", "SEEDS": str(SEED)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize("script", SCRIPTS)
def test_values_are_those_of_the_paper(runs, script):
    assert len(runs[script]) == SCRIPTS[script]
    for name, config in runs[script].items():
        values = {key: OmegaConf.select(config, key, throw_on_missing=True) for key in EXPECTED[script]}
        assert values == EXPECTED[script], name


def test_every_combination_is_swept_once(runs):
    def swept(script, *keys):
        return Counter(tuple(OmegaConf.select(config, key) for key in keys) for config in runs[script].values())

    keys = ("vars.task", "actor_rollout_ref.model.path")
    assert swept("generalization/run_sdpo_all.sh", *keys) == Counter(itertools.product(DATASETS, MODELS))
    swept_grpo = swept(
        "generalization/run_baseline_grpo_all.sh", *keys, f"{ACTOR}.optim.lr", f"{ACTOR}.ppo_mini_batch_size"
    )
    assert swept_grpo == Counter(itertools.product(DATASETS, MODELS, (1e-5, 1e-6), (8, 32)))
    for script in ("rich_feedback/run_sdpo.sh", "rich_feedback/run_baseline_grpo.sh"):
        assert swept(script, *keys) == {("datasets/lcb_v6", "Qwen/Qwen3-8B"): 1}


def test_names_say_what_is_swept(runs):
    names = [name for composed in runs.values() for name in composed]
    assert len(set(names)) == len(names) == sum(SCRIPTS.values())
    for composed in runs.values():
        for name, config in composed.items():
            actor = config.actor_rollout_ref.actor
            parts = name.split("-")
            assert parts[0].lower() == ("sdpo" if actor.policy_loss.loss_mode == "sdpo" else "grpo")
            assert config.vars.task.split("/")[-1] in parts
            assert config.actor_rollout_ref.model.path.split("/")[-1] in name
            assert f"-lr{actor.optim.lr:.0e}-".replace("e-0", "e-") in name
            assert f"-mb{actor.ppo_mini_batch_size}-" in name
            assert ("-onpolicy-" in name) == (parts[0] == "GRPO" and actor.ppo_mini_batch_size == 32)
            assert name.endswith(f"-seed{SEED}")


def test_seed_reaches_data_mini_batches_and_sampling(runs):
    for composed in runs.values():
        for config in composed.values():
            assert config.data.seed == SEED
            assert config.actor_rollout_ref.actor.data_loader_seed == SEED
            assert config.actor_rollout_ref.rollout.seed == SEED


def test_records_and_checkpoints_have_a_place_that_is_stable_for_the_name(runs):
    for composed in runs.values():
        for name, config in composed.items():
            assert config.trainer.experiment_name == name
            assert config.trainer.default_local_dir == f"{config.vars.ckpt_dir}/{name}"
            assert config.trainer.save_freq > 0


def test_sdpo_accepts_every_one_of_them(runs):
    for composed in runs.values():
        for config in composed.values():
            validate_training_config(config)


def test_table_shows_what_is_shared_once_and_what_differs_per_run(runs):
    lines = table(runs["rich_feedback/run_sdpo.sh"] | runs["rich_feedback/run_baseline_grpo.sh"]).splitlines()
    assert lines[0] == "2 runs, all with"
    assert "  rollouts         8" in lines
    header, sdpo, grpo = lines[-3:]
    assert header.split()[:4] == ["run", "loss", "mini-batch", "alpha"]
    assert sdpo.split()[1:4] == ["sdpo", "1", "1.0"]
    assert grpo.split()[1:4] == ["vanilla", "8", "None"]
