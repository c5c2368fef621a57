"""Every mode of docs/algorithm.md in a whole run: two steps, and the second again from the first one's checkpoint.

A quarter of an hour, so not part of the ordinary run: `bash tests/run.sh -m modes`.
"""

import pytest

from tests.e2e.test_train import metrics_of

# Each run takes one of what and of whom a sample learns, one of what the teacher reads, one of who it is.
RUNS = {
    "token, attempts, frozen": {
        **{"credit": "token", "alpha": 1.0},
        **{"num_demonstrations": 2, "num_failed_attempts": 1, "include_own_attempt": True},
        "teacher_regularization": "frozen",
    },
    "sequence, shortest, live": {
        **{"credit": "sequence", "alpha": 1.0},
        "demonstration_choice": "shortest",
        "teacher_regularization": "live",
    },
    "sampled token, own success, refresh": {
        **{"credit": "sampled-token", "alpha": 1.0},
        **{"self_success_as_solution": True, "dont_reprompt_on_self_success": False},
        **{"teacher_regularization": "refresh", "teacher_refresh_interval": 2},
    },
    "full vocabulary, random, trust region": {
        "distillation_topk": None,
        "demonstration_choice": "random",
        "teacher_regularization": "trust-region",
    },
    "advantage clip, SRPO": {
        **{"credit": "logit-advantage", "alpha": 1.0, "advantage_clip": 5.0},
        **{"routing": "srpo", "teacher_entropy_beta": 1.0},
    },
    "policy clip, hybrid, uncertainty": {
        **{"credit": "logit-advantage", "alpha": 1.0, "policy_clip": "[0.2,0.28]", "is_clip": None},
        **{"grpo_weight": 0.9, "question_weight": "uncertainty"},
    },
    "LoRA": {"actor_rollout_ref.model.lora_rank": 8, "actor_rollout_ref.model.lora.merge": True},
}
BLOCK = "actor_rollout_ref.actor.self_distillation"


def options(block: dict) -> list[str]:
    keys = {key if "." in key else f"{BLOCK}.{key}": value for key, value in block.items()}
    return [f"{key}={'null' if value is None else value}" for key, value in keys.items()]


@pytest.mark.modes
@pytest.mark.parametrize("run", RUNS)
def test_two_steps_and_a_resume(train, tmp_path, run):
    common = ["trainer.total_training_steps=2", "actor_rollout_ref.actor.optim.lr=1e-3", *options(RUNS[run])]
    steps = metrics_of(train(tmp_path / "whole", *common, "trainer.save_freq=1"), tmp_path / "whole")
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
