import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.e2e import tiny
from verl.sdpo.runs import dump_schema as dump

pytestmark = pytest.mark.e2e

COVERAGE = (
    "success_group_fraction",
    "success_sample_fraction",
    "feedback_available_fraction",
    "feedback_used_fraction",
    "reprompt_sample_fraction",
    "empty_target_batch",
)
DIAGNOSTICS = (
    "kl",
    "teacher_entropy",
    "student_entropy",
    "tail_mass",
    "is_clip_fraction",
    "teacher_prompt_length/mean",
    "truncated_reprompt_fraction",
    "teacher_student_distance",
)


def metrics_of(run, folder) -> list[dict]:
    assert run.returncode == 0, run.stdout[-5000:]
    return [record["data"] for record in tiny.read_metrics(folder / "metrics.jsonl")]


@pytest.fixture(scope="module")
def two_steps(train, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_steps")
    run = train(
        folder,
        "trainer.total_training_steps=2",
        "trainer.save_freq=1",
        "actor_rollout_ref.actor.optim.lr=1e-3",
        f"trainer.rollout_data_dir={folder / 'rollouts'}",
        "insight.teacher_eval_freq=2",
    )
    return folder, metrics_of(run, folder)


def test_two_steps_report_everything_and_move_both_models(two_steps):
    _, steps = two_steps
    assert len(steps) == 2
    for step in steps:
        missing = [name for name in COVERAGE + DIAGNOSTICS if f"self_distillation/{name}" not in step]
        assert not missing
        assert step["self_distillation/reprompt_sample_fraction"] > 0
        assert step["actor/pg_loss"] > 0
        assert step["actor/grad_norm"] > 0
        assert step["self_distillation/teacher_student_distance"] > 0
    assert (
        steps[1]["self_distillation/teacher_student_distance"] > steps[0]["self_distillation/teacher_student_distance"]
    )


def test_the_teacher_answers_its_prompts_as_often_as_a_validation_asks(two_steps):
    """Four questions of the test file, four answers to each; the first step is always asked."""
    _, steps = two_steps
    for step in steps:
        assert 0 < step["self_distillation/teacher_accuracy/answers"] <= 16
        assert 0 <= step["self_distillation/teacher_accuracy"] <= 1
        assert step["timing_s/teacher_eval"] > 0


def test_actor_and_vllm_agree_on_the_weights(two_steps):
    """The second step samples from weights that were synchronised after the first."""
    _, steps = two_steps
    for step in steps:
        assert step["training/rollout_probs_diff_mean"] < 1e-3


def test_teacher_prompt_shows_a_siblings_success_or_the_feedback(two_steps):
    folder, _ = two_steps
    samples = dump.read(folder / "rollouts" / "insight" / "1.parquet")
    groups: dict[str, list[dict]] = {}
    for sample in samples:
        groups.setdefault(sample["uid"], []).append(sample)
    seen = set()
    for group in groups.values():
        for sample in group:
            prompt = sample["teacher_prompt"]
            siblings = [other["response"] for other in group if other["score"] >= 1 and other is not sample]
            if siblings:
                seen.add("demonstration")
                assert any(output in prompt for output in siblings)
                assert prompt.endswith("\n\nCorrectly solve the original question.")
            elif sample["feedback"]:
                seen.add("feedback")
                assert sample["feedback"] in prompt
    assert "demonstration" in seen


def test_resumed_run_equals_the_uninterrupted_one(two_steps, train, tmp_path):
    """Step 2 again, from the checkpoint of step 1: model, optimizer, teacher, data order and sampling all restored."""
    folder, steps = two_steps
    run = train(
        tmp_path,
        "trainer.total_training_steps=2",
        "actor_rollout_ref.actor.optim.lr=1e-3",
        "trainer.resume_mode=resume_path",
        f"trainer.resume_from_path={folder / 'checkpoints' / 'global_step_1'}",
    )
    (resumed,) = metrics_of(run, tmp_path)
    for name in ("actor/pg_loss", "self_distillation/kl", "self_distillation/teacher_student_distance"):
        assert resumed[name] == pytest.approx(steps[1][name], rel=1e-5), name
    assert resumed["critic/score/mean"] == steps[1]["critic/score/mean"]


def test_a_checkpoint_becomes_an_ordinary_model(two_steps, tmp_path):
    """By verl's own tool, as docs/training.md says; the teacher in the actor's folder does not disturb it."""
    folder, _ = two_steps
    actor = folder / "checkpoints" / "global_step_2" / "actor"
    command = ["-m", "verl.model_merger", "merge", "--backend", "fsdp", "--local_dir", actor, "--target_dir", tmp_path]
    run = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    trained = torch.load(actor / "model_world_size_1_rank_0.pt", weights_only=False)
    for name, weight in AutoModelForCausalLM.from_pretrained(tmp_path).state_dict().items():
        torch.testing.assert_close(weight.float(), trained[name].to_local(), rtol=1e-2, atol=1e-3)


@pytest.fixture(scope="module")
def code_step(train, tmp_path_factory):
    """One step of two mini-batches with the project's own graders and sandbox: the random model writes no program.

    And modes that go together: clips against the old policy, a hybrid, attempts in the prompt, the refilling sampler.
    """
    folder = tmp_path_factory.mktemp("code_step")
    tests = {"inputs": ["1\n"], "outputs": ["2\n"], "testtype": "stdin", "fn_name": "", "time_limit": 2}
    data = tiny.build_data(
        folder / "code",
        data_source="livecodebench",
        ability="code",
        reward_model={"style": "code", "ground_truth": json.dumps(tests)},
    )
    run = train(
        folder,
        "trainer.total_training_steps=1",
        "trainer.save_freq=1",
        "actor_rollout_ref.actor.optim.lr=1e-3",
        "actor_rollout_ref.actor.ppo_mini_batch_size=2",
        "reward.custom_reward_function.path=pkg://verl.utils.reward_score.feedback",
        f"trainer.rollout_data_dir={folder / 'rollouts'}",
        "data.refill_until_target=1",
        *(
            f"actor_rollout_ref.actor.self_distillation.{option}"
            for option in (
                "credit=logit-advantage",
                "alpha=1.0",
                "policy_clip=[0.2,0.28]",
                "is_clip=null",
                "grpo_weight=0.5",
                "include_own_attempt=True",
                "num_failed_attempts=1",
            )
        ),
        data=data,
    )
    return folder, metrics_of(run, folder)


def test_code_environments_feedback_reaches_the_teacher(code_step):
    folder, (step,) = code_step
    assert step["self_distillation/feedback_used_fraction"] == 1.0
    assert step["self_distillation/grader_error_fraction"] == 0.0
    samples = dump.read(folder / "rollouts" / "insight" / "1.parquet")
    for sample in samples:
        assert sample["score"] == 0.0
        assert sample["feedback"]
        prompt = sample["teacher_prompt"]
        assert sample["feedback"] in prompt
        assert f"Your earlier attempt:\n\n{sample['response']}" in prompt or not sample["response"].strip()


def test_modes_go_together(code_step):
    """Feedback gives every group a teacher: nothing is refilled. No program succeeds: no reward differs."""
    _, (step,) = code_step
    assert step["actor/pg_loss"] != 0
    assert step["actor/grpo_loss"] == 0
    assert step["actor/grad_norm"] > 0
    assert 0 <= step["self_distillation/policy_clip_fraction"] < 1
    assert step["training/refill/taught_fraction"] == 1
    assert step["training/refill/generated_tokens"] == step["response_length/mean"] * 16


def test_the_teacher_moves_once_per_step_towards_the_student(code_step, tiny_model):
    folder, _ = code_step
    actor_folder = folder / "checkpoints" / "global_step_1" / "actor"
    student, teacher = (
        torch.load(path / "model_world_size_1_rank_0.pt", weights_only=False)
        for path in (actor_folder, actor_folder / "teacher")
    )
    for name, initial in load_file(tiny_model / "model.safetensors").items():
        trained = student[name].to_local()
        assert not torch.equal(trained, initial)
        torch.testing.assert_close(teacher[name].to_local(), torch.lerp(initial, trained, 0.05), rtol=1e-5, atol=1e-7)


def test_grpo_baseline_is_verls_own_and_saves_and_ends_when_asked(train, tmp_path):
    """As `experiments/` starts it; verl alone would take four steps and save after the last."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "stop").touch()
    run = train(
        tmp_path,
        "trainer.total_training_steps=4",
        "trainer.save_freq=1000",
        config="baseline_grpo",
    )
    (step,) = metrics_of(run, tmp_path)
    assert (tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt").read_text() == "1"
    assert (tmp_path / "checkpoints" / "stopped").exists()
    assert not [name for name in step if name.startswith("self_distillation/")]
    assert "actor/pg_clipfrac" in step
    assert "SelfDistillation" not in run.stdout


def test_one_switch_gives_verls_trainer_under_sdpo_yaml(train, tmp_path):
    run = train(tmp_path, "trainer.total_training_steps=1", "actor_rollout_ref.actor.policy_loss.loss_mode=vanilla")
    (step,) = metrics_of(run, tmp_path)
    assert not [name for name in step if name.startswith("self_distillation/")]
    assert "actor/pg_clipfrac" in step


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["actor_rollout_ref.actor.self_distillation.alpha=1.5"],
            "actor_rollout_ref.actor.self_distillation.alpha=1.5: expected a number in [0, 1]",
        ),
        (
            ["actor_rollout_ref.actor.strategy=fsdp", "actor_rollout_ref.ref.strategy=fsdp"],
            "strategy=fsdp with VERL_PLATFORM=cpu: only fsdp2 works",
        ),
        (
            ["reward.custom_reward_function.path=pkg://verl.utils.reward_score.feedback"],
            "No grader for data_source 'tiny'. Known: sciknoweval",
        ),
    ],
    ids=["value", "strategy", "data source"],
)
def test_mistake_stops_before_ray(train, tmp_path, overrides, message):
    run = train(tmp_path, *overrides)
    assert run.returncode != 0
    assert message in run.stdout
    assert "ray init kwargs" not in run.stdout
