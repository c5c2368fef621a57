"""Every mode of docs/algorithm.md as a whole run: two steps, and the second again from the first one's checkpoint.

Half an hour, so not part of the ordinary run: `bash tests/run.sh -m modes`.
"""

import pytest

from tests.e2e.test_train import metrics_of

REVERSE = {"alpha": 1.0}
MODES = {
    "token": REVERSE | {"credit": "token"},
    "sequence": REVERSE | {"credit": "sequence"},
    "sampled-token": REVERSE | {"credit": "sampled-token"},
    "full-vocabulary": {"distillation_topk": None},
    "advantage-clip": REVERSE | {"credit": "logit-advantage", "advantage_clip": 5.0},
    "policy-clip": REVERSE | {"credit": "logit-advantage", "policy_clip": "[0.2,0.28]", "is_clip": None},
    "hybrid": {"grpo_weight": 0.9},
    "srpo": {"routing": "srpo", "teacher_entropy_beta": 1.0},
    "uncertainty": {"question_weight": "uncertainty"},
    "attempts": {"num_demonstrations": 2, "num_failed_attempts": 1, "include_own_attempt": True},
    "own-success": {"self_success_as_solution": True, "dont_reprompt_on_self_success": False},
    "shortest": {"demonstration_choice": "shortest"},
    "random": {"demonstration_choice": "random"},
    "trust-region": {"teacher_regularization": "trust-region"},
    "frozen": {"teacher_regularization": "frozen"},
    "live": {"teacher_regularization": "live"},
    "refresh": {"teacher_regularization": "refresh", "teacher_refresh_interval": 2},
}
BLOCK = "actor_rollout_ref.actor.self_distillation"


def options(block: dict) -> list[str]:
    return [f"{BLOCK}.{key}={'null' if value is None else value}" for key, value in block.items()]


@pytest.mark.e2e
def test_modes_go_together_and_questions_are_refilled(train, tmp_path):
    """One step of two mini-batches; the tiny reward leaves questions without a teacher."""
    block = MODES["policy-clip"] | MODES["attempts"] | MODES["hybrid"] | {"teacher_entropy_beta": 1.0}
    run = train(
        tmp_path,
        "trainer.total_training_steps=1",
        "actor_rollout_ref.actor.ppo_mini_batch_size=2",
        "data.refill_until_target=1",
        *options(block | {"include_environment_feedback": False}),
    )
    (step,) = metrics_of(run, tmp_path)
    assert step["actor/grad_norm"] > 0
    assert step["actor/pg_loss"] != 0
    assert "actor/grpo_loss" in step
    assert step["self_distillation/policy_clip_fraction"] >= 0
    assert step["training/refill/rounds"] in (0, 1)
    assert step["training/refill/generated_tokens"] >= step["response_length/mean"] * 16


@pytest.mark.modes
@pytest.mark.parametrize("mode", MODES)
def test_two_steps_and_a_resume(train, tmp_path, mode):
    common = ["trainer.total_training_steps=2", "actor_rollout_ref.actor.optim.lr=1e-3", *options(MODES[mode])]
    run = train(tmp_path / "whole", *common, "trainer.save_freq=1")
    steps = metrics_of(run, tmp_path / "whole")
    assert len(steps) == 2
    assert all(step["actor/grad_norm"] > 0 for step in steps)
    checkpoint = tmp_path / "whole" / "checkpoints" / "global_step_1"
    resume = ["trainer.resume_mode=resume_path", f"trainer.resume_from_path={checkpoint}"]
    (resumed,) = metrics_of(train(tmp_path / "again", *common, *resume), tmp_path / "again")
    for name in (
        "actor/pg_loss",
        "self_distillation/kl",
        "self_distillation/teacher_student_distance",
        "actor/grad_norm",
    ):
        assert resumed[name] == pytest.approx(steps[1][name], rel=1e-5), name
    assert resumed["critic/score/mean"] == steps[1]["critic/score/mean"]
