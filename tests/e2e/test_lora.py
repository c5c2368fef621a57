"""A whole training with LoRA: the moving average of merged weights, saved, and gone on with."""

import pytest
import torch

from tests.e2e.test_train import metrics_of

pytestmark = pytest.mark.modes

RANK, ALPHA = 8, 16


def test_a_moving_average_of_merged_weights_trains_and_resumes(train, tmp_path):
    overrides = (
        f"actor_rollout_ref.model.lora_rank={RANK}",
        f"actor_rollout_ref.model.lora_alpha={ALPHA}",
        "actor_rollout_ref.model.lora.merge=True",
        "actor_rollout_ref.actor.optim.lr=1e-2",
        "actor_rollout_ref.actor.self_distillation.teacher_regularization=ema",
        "trainer.save_freq=1",
    )
    steps = metrics_of(train(tmp_path, "trainer.total_training_steps=2", *overrides), tmp_path)
    steps += metrics_of(train(tmp_path, "trainer.total_training_steps=3", *overrides), tmp_path)[-1:]
    assert len(steps) == 3
    distances = [step["self_distillation/teacher_student_distance"] for step in steps]
    assert 0 < distances[0] < distances[1] < distances[2]
    # verl rounds the merged weights to bfloat16 on their way to vLLM; of 259 tokens each has about 4e-3.
    assert all(step["training/rollout_probs_diff_mean"] < 1e-5 for step in steps)
    average = None
    for step in (1, 2, 3):
        folder = tmp_path / "checkpoints" / f"global_step_{step}" / "actor"
        student, teacher = (
            torch.load(path / "model_world_size_1_rank_0.pt", weights_only=False)
            for path in (folder, folder / "teacher")
        )
        name = "base_model.model.model.layers.0.mlp.up_proj.{}.weight"
        base, a, b, found = (
            state[name.format(part)].to_local()
            for state, part in (
                (student, "base_layer"),
                (student, "lora_A.default"),
                (student, "lora_B.default"),
                (teacher, "base_layer"),
            )
        )
        average = torch.lerp(base if average is None else average, base + ALPHA / RANK * (b @ a), 0.05)
        torch.testing.assert_close(found, average, rtol=1e-5, atol=1e-7)
        assert not torch.equal(found, base)
