"""The probe's whole path on a real, tiny model, without vLLM and Ray."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.e2e


def test_the_probe_of_a_tiny_model(tiny_model, tiny_data, tmp_path):
    command = [
        *(sys.executable, "-m", "verl.sdpo.probe", "--engine", "transformers"),
        *("--questions", "4", "--samples", "4", "--answers", "8", "--json", str(tmp_path / "probe.json")),
        f"actor_rollout_ref.model.path={tiny_model}",
        f"reward.custom_reward_function.path={tiny_data / 'reward.py'}",
        "data.train_batch_size=4",
        "actor_rollout_ref.actor.ppo_mini_batch_size=4",
        "data.max_prompt_length=64",
        "data.max_response_length=16",
        "max_model_len=512",
        "actor_rollout_ref.actor.self_distillation.max_reprompt_len=400",
    ]
    environment = {
        **os.environ,
        "VERL_PLATFORM": "cpu",
        "HF_HUB_OFFLINE": "1",
        "SDPO_DIR": str(tiny_data.parent),
        "TASK": tiny_data.name,
    }
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]
    assert "4 questions x 4 attempts" in run.stdout
    found = json.loads((tmp_path / "probe.json").read_text())
    rows = {row["context"]: row for row in found["contexts"]}
    # A random model over bytes: about half of its answers succeed, and all failures come with feedback.
    assert set(rows) == {"configured", "demonstration", "feedback", "both"}
    assert all(0 < row["answers"] <= 8 and row["divergence"] > 0 for row in rows.values())
    assert found["verdict"][0].split()[0].strip(",:") in {"YES", "NO", "UNCLEAR"}
