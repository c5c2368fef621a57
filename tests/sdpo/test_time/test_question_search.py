"""Test-time SDPO: its configuration, and what it adds to the trainer."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.sdpo.test_time.fakes import PUBLIC, QUESTION, reward_function, without_time, write_question
from verl.sdpo.preflight.data_files import check_files
from verl.sdpo.test_time.grading import grade_question
from verl.sdpo.test_time.log import read_log
from verl.sdpo.test_time.question_search import QuestionSearch, check

COMPOSE = """
import json, sys, verl
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
with initialize_config_module('verl.trainer.config', version_base=None):
    configs = [compose('sdpo_ttt', [f'machine={machine}', *sys.argv[1:]]) for machine in ('gpu', 'cpu')]
print(json.dumps([OmegaConf.to_container(config, resolve=True) for config in configs]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_question(tmp_path_factory.mktemp("singles") / "q_7", source="livecodebench")


@pytest.fixture(scope="module")
def composed(folder):
    """`sdpo_ttt` on both kinds of machine, as verl gets it for the question in `folder`."""
    overrides = [f"vars.dir={folder.parent}", "vars.task=q_7", "vars.seed=3"]
    command = [sys.executable, "-W", "ignore", "-c", COMPOSE, *overrides]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return [OmegaConf.create(config) for config in json.loads(run.stdout.splitlines()[-1])]


@pytest.fixture
def config(composed, tmp_path):
    """Configuration of 4 rollouts a step and 10 attempts."""
    config = OmegaConf.create(composed[0])
    config.actor_rollout_ref.rollout.n = 4
    config.test_time = {"budget": 10, "log": str(tmp_path / "sdpo.attempts.jsonl")}
    return config


@pytest.mark.parametrize("which", [0, 1], ids=["GPU", "CPU"])
def test_the_configuration_is_the_papers(composed, which):
    config = composed[which]
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    assert (config.data.train_batch_size, rollout.n, actor.ppo_mini_batch_size) == (1, 16, 1)
    assert actor.self_distillation.alpha == 1.0
    assert actor.self_distillation.distillation_topk == 20
    assert actor.self_distillation.teacher_regularization == "ema"
    assert actor.self_distillation.teacher_update_rate == 0.01
    assert actor.self_distillation.include_environment_feedback is True
    assert (actor.policy_loss.loss_mode, config.trainer.v1.trainer_mode) == ("sdpo", "sdpo_ttt")
    assert actor.optim.lr == 1e-6
    assert config.test_time.budget == 2750
    assert config.trainer.total_training_steps == config.trainer.total_epochs == 172
    assert 171 * 16 < 2750 <= 172 * 16
    assert (rollout.seed, config.data.seed, actor.data_loader_seed) == (3, 3, 3)
    assert rollout.agent.default_agent_loop == "seeded_single_turn_agent"
    assert config.reward.custom_reward_function.reward_kwargs.hidden_file == config.data.val_files
    assert config.test_time.log.endswith("/ttt-sdpo-q_7-Qwen3-8B-seed3.attempts.jsonl")
    assert config.trainer.default_local_dir.endswith("/ttt-sdpo-q_7-Qwen3-8B-seed3")


def test_the_gpu_settings_are_those_of_the_model(composed):
    config = composed[0]
    assert config.actor_rollout_ref.model.path == "Qwen/Qwen3-8B"
    assert config.actor_rollout_ref.rollout.temperature == 1.0
    assert (config.data.max_prompt_length, config.data.max_response_length) == (2048, 8192)


def test_the_header_names_what_a_resume_must_repeat(config):
    QuestionSearch(config)
    header, _ = read_log(Path(config.test_time.log))
    assert header["method"] == "sdpo"
    assert (header["question_id"], header["seed"], header["budget"], header["rollouts"]) == ("q_7", 3, 10, 4)
    assert (header["model"], header["lr"]) == ("Qwen/Qwen3-8B", 1e-6)
    assert header["self_distillation"]["alpha"] == 1.0


def test_a_key_that_is_a_list_stands_in_the_header(config):
    config.actor_rollout_ref.actor.self_distillation.policy_clip = [0.2, 0.28]
    QuestionSearch(config)
    header, _ = read_log(Path(config.test_time.log))
    assert header["self_distillation"]["policy_clip"] == [0.2, 0.28]


def make_step(search, step, texts=("wrong",) * 4):
    for number, text in enumerate(texts):
        result = grade_question(reward_function, QUESTION, text, truncated=False)
        search.record(step, f"{text} {step}/{number}", (5, 2), result)


def test_attempts_are_logged_in_the_common_format(config):
    search = QuestionSearch(config)
    make_step(search, 1, ("wrong", "cheat"))
    wrong, cheat = without_time(search.log.records)
    assert wrong == {
        "attempt": 1,
        "step": 1,
        "response": "wrong 1/0",
        "prompt_tokens": 5,
        "response_tokens": 2,
        "reward": 0.0,
        "confirmed": False,
        "hidden": None,
        "metrics": {"acc": 0.0, "feedback": f"wrong fails {PUBLIC}", "pred": PUBLIC},
    }
    assert (cheat["attempt"], cheat["reward"], cheat["confirmed"]) == (2, 1.0, False)


def test_attempts_of_the_last_batch_beyond_the_budget_are_not_counted(config):
    search = QuestionSearch(config)
    for step in (1, 2):
        make_step(search, step)
        assert not search.over
    make_step(search, 3, ("wrong", "wrong", "wrong", "right"))
    assert search.over
    assert not search.log.solved
    assert len(search.log.records) == 10


def test_the_search_is_over_at_the_first_confirmed_attempt(config):
    search = QuestionSearch(config)
    make_step(search, 1, ("cheat", "right", "right", "wrong"))
    assert search.over
    assert search.log.solved
    assert len(search.log.records) == 2


def test_attempts_after_the_checkpoint_are_set_aside_and_made_again(config):
    search = QuestionSearch(config)
    for step in (1, 2):
        make_step(search, step)
    search.log.close()
    resumed = QuestionSearch(config)
    assert resumed.resume(1) == f"moved 4 attempts after step 1 out of {resumed.log.path}: they are made again"
    make_step(resumed, 2)
    assert [record["attempt"] for record in resumed.log.records] == list(range(1, 9))
    assert without_time(resumed.log.records) == without_time(search.log.records)


@pytest.mark.parametrize("lines", range(10))
def test_a_run_that_was_killed_at_any_line_counts_no_attempt_twice(config, lines):
    """Checkpoint after step 1 (attempts 1 to 4) where the log got that far, none before."""
    search = QuestionSearch(config)
    for step in (1, 2, 3):
        make_step(search, step)
    search.log.close()
    content = search.log.path.read_bytes().splitlines(keepends=True)
    search.log.path.write_bytes(b"".join(content[:lines]) + content[lines][:9])
    resumed = QuestionSearch(config)
    checkpoint = 1 if lines > 4 else 0
    resumed.resume(checkpoint)
    for step in range(checkpoint + 1, 4):
        make_step(resumed, step)
    assert without_time(resumed.log.records) == without_time(search.log.records)
    assert resumed.over


def test_a_solved_question_is_not_begun_again(config):
    search = QuestionSearch(config)
    make_step(search, 1, ("right",))
    assert search.resume(0) is None
    assert search.over


def test_a_log_that_lacks_what_the_checkpoint_saw_is_refused(config):
    search = QuestionSearch(config)
    make_step(search, 1)
    with pytest.raises(ValueError, match="ends with step 1, but the checkpoint was made after step 2"):
        search.resume(2)


def test_a_valid_configuration_passes(config):
    check(config)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "actor_rollout_ref.actor.policy_loss.loss_mode",
            "vanilla",
            "loss_mode=vanilla: the block test_time needs another. Set it",
        ),
        ("data.refill_until_target", 1, "data.refill_until_target=1: attempts that are thrown"),
        (
            "data.train_batch_size",
            2,
            "data.train_batch_size=2: the block test_time needs another. Set it to 1",
        ),
        (
            "reward.custom_reward_function.path",
            "mine.py",
            "path=mine.py: the block test_time needs another. Set it to pkg",
        ),
        (
            "data.val_files",
            ["a.parquet"],
            "data.val_files=['a.parquet']: the block test_time is for one question.",
        ),
        ("test_time.budget", 0, "test_time.budget=0: expected a whole number of attempts >= 1"),
        ("data.max_response_length", 7, "was begun differently: max_response was 8192, now 7"),
    ],
)
def test_mistakes_are_named_before_ray_starts(config, key, value, message):
    log = QuestionSearch(config).log
    log.append(response="", reward=0.0)
    log.close()
    OmegaConf.update(config, key, value)
    with pytest.raises(ValueError) as raised:
        check(config)
    assert message in str(raised.value)


def test_the_check_of_a_new_search_makes_no_folder(config, tmp_path):
    config.test_time.log = str(tmp_path / "logs" / "new.attempts.jsonl")
    check(config)
    assert list(tmp_path.iterdir()) == []


def test_the_check_leaves_the_log_of_a_running_search_alone(config):
    log = QuestionSearch(config).log
    log.append(response="", reward=0.0)
    with log.path.open("ab") as file:
        file.write(b'{"attempt": 2, "resp')
    before = {path: path.read_bytes() for path in log.path.parent.iterdir()}
    check(config)
    assert {path: path.read_bytes() for path in log.path.parent.iterdir()} == before
    log.close()


def test_missing_files_are_left_to_the_check_of_the_data(config, tmp_path):
    config.data.train_files = str(tmp_path / "train.parquet")
    check(config)
    with pytest.raises(ValueError, match=r"data\.train_files: there is no .*train\.parquet"):
        check_files(config)


def test_a_log_without_an_attempt_takes_corrected_settings(config):
    check(config)
    OmegaConf.update(config, "data.max_response_length", 7)
    check(config)
    log = QuestionSearch(config).log
    log.append(response="", reward=0.0)
    log.close()
    assert read_log(log.path)[0]["max_response"] == 7
