"""The effective configuration of every run against the paper (arXiv 2601.20802), its values written down here by hand.

What no table says is marked: E.2.1 is the appendix with the grids, [authors] the launch scripts of their repository.
"""

import itertools
import subprocess
import sys
from collections import Counter

import pytest
from omegaconf import OmegaConf

from experiments import recipes
from experiments.effective_config import comparison, compose_runs
from tests.experiments.conftest import REPO, SCRIPTS
from tests.sdpo.trainings import check_training

ACTOR = "actor_rollout_ref.actor"
ROLLOUT = "actor_rollout_ref.rollout"
DISTILLATION = f"{ACTOR}.self_distillation"

# Rows that Tables 12 and 13 share, but for the last two groups.
COMMON = {
    "data.max_prompt_length": 2048,
    "data.max_response_length": 8192,
    "data.apply_chat_template_kwargs.enable_thinking": False,
    f"{ROLLOUT}.name": "vllm",
    f"{ROLLOUT}.temperature": 1.0,
    f"{ACTOR}.optim.optimizer": "AdamW",
    f"{ACTOR}.optim.lr_scheduler_type": "constant",
    f"{ACTOR}.optim.weight_decay": 0.01,
    f"{ACTOR}.optim.clip_grad": 1.0,
    f"{ACTOR}.use_kl_loss": False,
    "algorithm.use_kl_in_reward": False,
    "algorithm.rollout_correction.rollout_is": "token",
    "algorithm.rollout_correction.rollout_is_threshold": 2.0,
    # Section 2: advantages without the standard deviation. Appendix E.1: FSDP2, one node with four GPUs.
    "algorithm.adv_estimator": "grpo",
    "algorithm.norm_adv_by_std_in_grpo": False,
    f"{ACTOR}.strategy": "fsdp2",
    "trainer.n_gpus_per_node": 4,
    "trainer.nnodes": 1,
    # [authors] A micro-batch of one with means per micro-batch: every sequence weighs the same.
    f"{ACTOR}.loss_agg_mode": "seq-mean-token-mean",
    f"{ROLLOUT}.top_p": 1,
    f"{ROLLOUT}.calculate_log_probs": True,
    f"{ACTOR}.entropy_coeff": 0,
    f"{ACTOR}.ppo_epochs": 1,
    "trainer.total_epochs": 30,
    "trainer.resume_mode": "auto",
}
# Sections 3 and 4
SWEPT = COMMON | {
    "data.train_batch_size": 32,
    f"{ROLLOUT}.n": 8,
    f"{ROLLOUT}.val_kwargs.do_sample": True,
    f"{ROLLOUT}.val_kwargs.temperature": 0.6,
    f"{ROLLOUT}.val_kwargs.top_p": 0.95,
    # The averages over the training have a value for every fifth step and for step 0.
    "trainer.val_before_train": True,
    "trainer.test_freq": 5,
}
SDPO = {
    f"{ACTOR}.policy_loss.loss_mode": "sdpo",
    "trainer.v1.trainer_mode": "sdpo",
    f"{ROLLOUT}.max_model_len": 18944,
    f"{DISTILLATION}.full_logit_distillation": True,
    f"{DISTILLATION}.distillation_add_tail": True,
    f"{DISTILLATION}.teacher_regularization": "ema",
    f"{DISTILLATION}.is_clip": 2.0,
    # [authors]
    f"{DISTILLATION}.teacher_update_interval": "step",
    f"{DISTILLATION}.denominator": "all",
    f"{DISTILLATION}.max_reprompt_len": 10240,
    f"{DISTILLATION}.success_reward_threshold": 1.0,
    f"{DISTILLATION}.dont_reprompt_on_self_success": True,
    f"{DISTILLATION}.environment_feedback_only_without_solution": True,
    f"{DISTILLATION}.remove_thinking_from_demonstration": True,
}
GRPO = {
    f"{ACTOR}.policy_loss.loss_mode": "vanilla",
    "trainer.v1.trainer_mode": "sync_stoppable",
    f"{ACTOR}.clip_ratio_low": 0.2,
    f"{ACTOR}.clip_ratio_high": 0.28,
    f"{ROLLOUT}.max_model_len": 10240,
}
# Table 12, "without rich feedback"; 16 samples per validation task and a warm-up of 10 steps also in Table 13.
GENERALIZATION = SWEPT | {
    f"{ACTOR}.optim.lr_warmup_steps": 10,
    f"{ROLLOUT}.val_kwargs.n": 16,
    # Section 3.1: "within 5 h".
    "trainer.max_train_hours": 5,
    "trainer.total_training_steps": None,
}
# Table 12, "with rich feedback"; Table 9 and Fig. 1: 80 steps.
RICH = SWEPT | {
    f"{ACTOR}.optim.lr": 1e-6,
    f"{ACTOR}.optim.lr_warmup_steps": 0,
    f"{ROLLOUT}.val_kwargs.n": 4,
    "trainer.max_train_hours": None,
    "trainer.total_training_steps": 80,
}
REVERSE_KL = {
    f"{DISTILLATION}.alpha": 1.0,
    f"{DISTILLATION}.distillation_topk": 20,
    f"{DISTILLATION}.teacher_update_rate": 0.01,
    f"{DISTILLATION}.include_environment_feedback": True,
}
RICH_SDPO = RICH | SDPO | REVERSE_KL | {f"{ACTOR}.ppo_mini_batch_size": 1}
RICH_GRPO = RICH | GRPO | {f"{ACTOR}.ppo_mini_batch_size": 8}
EXPECTED = {
    "generalization/run_sdpo_all.sh": GENERALIZATION
    | SDPO
    | {
        f"{ACTOR}.optim.lr": 1e-5,
        f"{ACTOR}.ppo_mini_batch_size": 32,
        f"{DISTILLATION}.alpha": 0.5,
        f"{DISTILLATION}.distillation_topk": 100,
        f"{DISTILLATION}.teacher_update_rate": 0.05,
        f"{DISTILLATION}.include_environment_feedback": False,
    },
    "generalization/run_baseline_grpo_all.sh": GENERALIZATION | GRPO,
    "rich_feedback/run_sdpo.sh": RICH_SDPO,
    "rich_feedback/run_baseline_grpo.sh": RICH_GRPO,
    # Table 12, "test time".
    "ttt/run_sdpo_all.sh": COMMON
    | SDPO
    | REVERSE_KL
    | {
        f"{DISTILLATION}.credit": "logit-advantage",
        f"{DISTILLATION}.advantage_clip": 5.0,
        f"{ACTOR}.optim.lr": 1e-6,
        f"{ACTOR}.optim.lr_warmup_steps": 0,
        f"{ACTOR}.ppo_mini_batch_size": 1,
        "data.train_batch_size": 1,
        f"{ROLLOUT}.n": 16,
        "trainer.v1.trainer_mode": "sdpo_ttt",
        "test_time.budget": 2750,
        "trainer.val_before_train": False,
        # An epoch may be one step.
        "trainer.total_epochs": 172,
    },
}
DATASETS = [f"datasets/sciknoweval/{name}" for name in ("biology", "chemistry", "material", "physics")]
DATASETS += ["datasets/tooluse"]
MODELS = ["Qwen/Qwen3-8B", "allenai/Olmo-3-7B-Instruct"]
SEED = 3


def list_runs(script: str, *arguments: str, **environment: str) -> list[str]:
    command = ["bash", str(REPO / "experiments" / script), "--list", *arguments]
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable, **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()


def compose(lists: dict) -> dict:
    """The composed configurations of lists of runs: {key: {name: configuration}}."""
    composed = compose_runs([line for lines in lists.values() for line in lines])
    return {key: {line.split("\t")[0]: composed[line.split("\t")[0]] for line in lines} for key, lines in lists.items()}


@pytest.fixture(scope="module")
def runs():
    """Of every script, with one seed and one dataset."""
    one = {"SEEDS": str(SEED), "DATASETS": "datasets/lcb_v6", "QUESTIONS": "120"}
    return compose({script: list_runs(script, **one) for script in EXPECTED})


@pytest.mark.parametrize("script", SCRIPTS)
def test_number_of_runs(script):
    """Fig. 6 and Table 9 have three seeds."""
    lines = list_runs(script)
    assert len(lines) == len({line.split("\t")[0] for line in lines}) == SCRIPTS[script]
    assert {line.split("\t")[4] for line in lines} == {"vars.seed=0", "vars.seed=1", "vars.seed=2"}


@pytest.mark.parametrize("script", EXPECTED)
def test_values_are_those_of_the_paper(runs, script):
    assert runs[script]
    for name, config in runs[script].items():
        assert_settings(name, config, EXPECTED[script])


def assert_settings(name, config, expected):
    values = {key: OmegaConf.select(config, key, throw_on_missing=True) for key in expected}
    assert values == expected, name


def test_table_13_and_its_grid(runs):
    """Default: rate 1e-6 with mini-batches of 8; on-policy: 1e-5 with 32. Table 7 chooses among both rates (E.2.1)."""
    script = "generalization/run_baseline_grpo_all.sh"
    arms = {}
    for name, config in runs[script].items():
        actor = config.actor_rollout_ref.actor
        arms.setdefault((actor.optim.lr, actor.ppo_mini_batch_size), []).append(name)
        assert ("-onpolicy-" in name) == (actor.ppo_mini_batch_size == config.data.train_batch_size)
    assert set(arms) == set(itertools.product((1e-6, 1e-5), (8, 32)))
    assert "GRPO-lr1e-6-lcb_v6-Qwen3-8B-seed3" in arms[1e-6, 8]
    assert "GRPO-onpolicy-lr1e-5-lcb_v6-Qwen3-8B-seed3" in arms[1e-5, 32]


def test_every_combination_is_swept_once():
    """Five datasets, two models, three seeds, and for GRPO two rates and two mini-batches."""
    cells = set(itertools.product(DATASETS, MODELS, range(3)))
    for script, arms in (("generalization/run_sdpo_all.sh", 1), ("generalization/run_baseline_grpo_all.sh", 4)):
        assert Counter(map(cell, list_runs(script))) == dict.fromkeys(cells, arms)
    for script in ("rich_feedback/run_sdpo.sh", "rich_feedback/run_baseline_grpo.sh"):
        assert [cell(line) for line in list_runs(script)] == [
            ("datasets/lcb_v6", "Qwen/Qwen3-8B", seed) for seed in range(3)
        ]


def cell(line: str) -> tuple[str, str, int]:
    _, _, task, model, seed, *_ = line.split("\t")
    return task, model.removeprefix("actor_rollout_ref.model.path="), int(seed.removeprefix("vars.seed="))


# Ablations: what differs from the runs of rich feedback, by the name of the run without its end.
RATE = f"{DISTILLATION}.teacher_update_rate"
TEACHER = f"{DISTILLATION}.teacher_regularization"
BATCHES = list(itertools.product((4, 8, 16, 32), (4, 8)))
OTHER_MODELS = [f"Qwen/Qwen3-{size}B" for size in ("0.6", "1.7", "4")]
OTHER_MODELS += [f"Qwen/Qwen2.5-{size}B-Instruct" for size in ("1.5", "3", "7")]


def batch(questions, rollouts):
    """As many generations with 8 rollouts as in 80 steps of 32 x 8, and as many between validations as in 5."""
    return {
        "data.train_batch_size": questions,
        f"{ROLLOUT}.n": rollouts,
        "trainer.total_training_steps": 80 * 32 // questions,
        "trainer.test_freq": 5 * 32 // questions,
    }


ABLATIONS = {
    # Table 4, at rate 0.01.
    "ablation_teacher": {
        f"SDPO-teacher-{kind}": RICH_SDPO | {TEACHER: kind, RATE: 0.01, "trainer.total_training_steps": 90}
        for kind in ("live", "frozen", "trust-region", "ema")
    },
    # Fig. 10 left
    "ablation_credit": {
        f"SDPO-credit-{credit}": RICH_SDPO
        | {f"{DISTILLATION}.distillation_topk": 100, f"{DISTILLATION}.credit": credit}
        for credit in ("logit", "token", "sequence")
    },
    # Eq. 3 and Fig. 11
    "ablation_hybrid": {
        f"SDPO-GRPO0.9{name}": RICH_SDPO
        | {f"{DISTILLATION}.grpo_weight": 0.9, "actor_rollout_ref.model.path": f"Qwen/Qwen3-{size}B"}
        for size in ("0.6", "1.7", "4", "8")
        for name in ["" if size == "8" else f"-lcb_v6-Qwen3-{size}B-seed3"]
    },
    # Table 6
    "ablation_feedback": {
        f"SDPO-feedback-{name}": RICH_SDPO
        | {f"{DISTILLATION}.{key}": value, "trainer.total_training_steps": 60}
        | ({f"{DISTILLATION}.max_reprompt_len": 18432, f"{ROLLOUT}.max_model_len": 27136} if name == "attempt" else {})
        for name, key, value in (
            ("output", "success_reward_threshold", 2.0),
            ("solution", "include_environment_feedback", False),
            ("both", "environment_feedback_only_without_solution", False),
            ("attempt", "include_own_attempt", True),
        )
    },
    # Fig. 16
    "ablation_batch_sdpo": {f"SDPO-batch{b}x{n}": RICH_SDPO | batch(b, n) for b, n in BATCHES},
    "ablation_batch_grpo": {
        f"GRPO-batch{b}x{n}": RICH_GRPO | batch(b, n) | {f"{ACTOR}.ppo_mini_batch_size": b} for b, n in BATCHES
    },
    # Figs. 8 and 17
    "ablation_model_sdpo": {
        f"SDPO-rich-lcb_v6-{model[5:]}-seed3": RICH_SDPO | {"actor_rollout_ref.model.path": model}
        for model in OTHER_MODELS
    },
    "ablation_model_grpo": {
        f"GRPO-rich-lcb_v6-{model[5:]}-seed3": RICH_GRPO | {"actor_rollout_ref.model.path": model}
        for model in OTHER_MODELS
    },
    # Not of the paper
    "variants": {
        f"SDPO-{variant}": EXPECTED["generalization/run_sdpo_all.sh"]
        | {f"{DISTILLATION}.{key}": value for key, value in settings.items()}
        | ({f"{ROLLOUT}.max_model_len": 35328} if variant == "mopd" else {})
        for variant, settings in {
            "srpo": {"routing": "srpo", "teacher_entropy_beta": 1.0},
            "sc": {"question_weight": "uncertainty"},
            "mopd": {"num_demonstrations": 2, "num_failed_attempts": 1, "max_reprompt_len": 27136},
            "refresh": {"teacher_regularization": "refresh", "teacher_refresh_interval": 50},
        }.items()
    },
    "lora": {
        f"SDPO-lora32-{kind}": EXPECTED["generalization/run_sdpo_all.sh"]
        | {
            TEACHER: kind,
            "actor_rollout_ref.model.lora_rank": 32,
            "actor_rollout_ref.model.lora_alpha": 32,
            "actor_rollout_ref.model.lora.merge": True,
            f"{ACTOR}.fsdp_config.param_offload": True,
            f"{ROLLOUT}.tensor_model_parallel_size": 1,
            "trainer.n_gpus_per_node": 1,
        }
        for kind in ("frozen", "ema")
    },
    # Fig. 19 left
    "ttt_sdpo_batch": {
        f"sdpo_rollouts{n}_q120_seed3": EXPECTED["ttt/run_sdpo_all.sh"]
        | {f"{ROLLOUT}.n": n, "trainer.total_epochs": -(-2750 // n)}
        for n in (8, 32)
    },
}


@pytest.fixture(scope="module")
def ablations():
    """The lines of every ablation, and some of their runs composed: those at the ends of long lists."""
    environment = {"SEEDS": str(SEED), "QUESTIONS": "120"}
    variants = {"DATASETS": "datasets/lcb_v6", "MODELS": "Qwen/Qwen3-8B"}
    lists = {
        recipe: list_runs("launcher.sh", recipe, **environment, **(variants if recipe in ("variants", "lora") else {}))
        for recipe in ABLATIONS
    }
    return lists, compose(
        {recipe: lines if len(lines) < 5 else [lines[0], lines[-1]] for recipe, lines in lists.items()}
    )


@pytest.mark.parametrize("recipe", ABLATIONS)
def test_ablations_differ_in_what_they_are_about(ablations, recipe):
    def short(name):
        return name.partition("\t")[0].removesuffix("-lcb_v6-Qwen3-8B-seed3")

    lists, composed = ablations
    assert sorted(map(short, lists[recipe])) == sorted(ABLATIONS[recipe])
    for name, config in composed[recipe].items():
        assert_settings(name, config, ABLATIONS[recipe][short(name)])
        check_training(config)


def test_the_grid_of_table_7(tmp_path):
    """E.2.1: two divergences, two rates, two mini-batches, for each of the ten cells."""
    names = [line.split("\t")[0] for line in list_runs("launcher.sh", "generalization_sdpo_grid", SEEDS="0")]
    assert len(names) == 80
    arms = Counter(name.rpartition("-biology-")[0] for name in names if name.endswith("biology-Qwen3-8B-seed0"))
    assert arms == {
        f"SDPO-{divergence}-lr{lr}-mb{size}": 1
        for divergence in ("jsd", "forward-kl")
        for lr in ("1e-5", "1e-6")
        for size in (8, 32)
    }


def test_no_two_runs_of_all_recipes_share_a_name():
    """They share the folders of records and checkpoints. The searches of the CPU have their own."""
    files = sorted((REPO / "experiments" / "recipes").glob("*.yaml"))
    contents = {file.stem: recipes.load(file.stem, file.parent) for file in files if "cpu" not in file.stem}
    runnable = {name: content for name, content in contents.items() if {"config", "command"} & content.keys()}
    names = Counter(
        run.name
        for name, content in runnable.items()
        for run in recipes.expand(name, content, {"LAUNCHER_PYTHON": "python"}, "/data")
    )
    assert len(runnable) > 15
    assert [name for name, count in names.items() if count > 1] == []


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
            check_training(config)


# What a recipe may not be


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"name": "a", "config": "sdpo", "overides": {}}, "there is no key 'overides'. A recipe may hold base, name"),
        ({"name": "a"}, "needs a config or a command"),
        ({"name": "a", "config": "sdpo", "command": ["true"]}, "needs a config or a command"),
        ({"config": "sdpo"}, "needs a name for its runs"),
        ({"base": "no_such_recipe"}, "There is no recipe"),
        ({"name": "a", "config": "sdpo", "sweep": {"kind": {"one": {}}}}, "KINDS: there is no two, only one."),
    ],
)
def test_mistakes_in_a_recipe(tmp_path, content, message):
    OmegaConf.save(OmegaConf.create(content), tmp_path / "mine.yaml")
    with pytest.raises(ValueError, match=message):
        list(recipes.expand("mine.yaml", recipes.load("mine.yaml", tmp_path), {"KINDS": "two"}, "/data"))


def test_a_recipe_of_ones_own(tmp_path):
    """Axes reach overrides with their types and names with their last part; labels bring overrides of their own."""
    content = {
        "base": "rich_feedback_sdpo",
        "name": "mine-{task}-{rate}-{seed}",
        "task": "{task}",
        "sweep": {"task": ["a/b c"], "rate": [1e-5, 0.5], "mode": {"x": {"k.own": "{not filled}"}}, "seed": [7]},
        "overrides": {"k.rate": "{rate}", "k.text": "{prompt} {rate}", "k.none": None, "k.list": [1, "a,b"]},
    }
    OmegaConf.save(OmegaConf.create(content), tmp_path / "mine.yaml")
    first, second = recipes.expand(
        "mine.yaml", recipes.load("mine.yaml", tmp_path), {"MODELS": "me/m", "DATASETS": "unused"}, "/data"
    )
    assert (first.name, second.name) == ("mine-b c-1e-5-7", "mine-b c-0.5-7")
    assert (first.task, first.config) == ("a/b c", "sdpo")
    assert {
        "vars.seed=7",
        "actor_rollout_ref.model.path=me/m",
        "k.rate=1e-5",
        "k.text='{prompt} 1e-05'",
        "k.none=null",
        "k.list=[1,'a,b']",
        "k.own='{not filled}'",
        "actor_rollout_ref.actor.self_distillation.alpha=1.0",
    } <= set(first.words)


def test_table_shows_what_is_shared_once_and_what_differs_per_run(runs):
    lines = comparison(runs["rich_feedback/run_sdpo.sh"] | runs["rich_feedback/run_baseline_grpo.sh"]).splitlines()
    assert lines[0] == "2 runs, all with"
    assert "  rollouts         8" in lines
    header, sdpo, grpo = lines[-3:]
    assert header.split()[:5] == ["run", "loss", "mini-batch", "denominator", "alpha"]
    assert sdpo.split()[1:5] == ["sdpo", "1", "all", "1.0"]
    assert grpo.split()[1:5] == ["vanilla", "8", "None", "None"]
