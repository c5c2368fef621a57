import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.quickstart import make_data
from tests.e2e import tiny
from verl.sdpo.runs.reader import Run

pytestmark = pytest.mark.e2e


def test_the_quickstart_trains_and_reports(tiny_model, tmp_path):
    """The recipe and command of `run.sh`, with a model that knows nothing; `run.sh` adds set-up and the real model."""
    make_data.write_data(tmp_path / "data", "tool-json", {"train": 8, "heldout": 4}, seed=0)
    run = subprocess.run(
        [
            *(sys.executable, "-m", "experiments.quickstart.train", "--steps", "1", "--seed", "3"),
            *("--model", str(tiny_model), "--data", str(tmp_path / "data"), "--runs", str(tmp_path / "runs")),
            # The tiny model's tokens are bytes.
            "data.max_prompt_length=512",
            "max_model_len=2048",
            "actor_rollout_ref.actor.self_distillation.max_reprompt_len=1536",
            # Any attempt is a demonstration, so that there is something to distil.
            "actor_rollout_ref.actor.self_distillation.success_reward_threshold=0.0",
        ],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    lines = run.stdout.splitlines()
    assert "step   0/1  held-out accuracy 0.00" in lines
    assert any(line.startswith("step   1/1  training accuracy 0.00  held-out accuracy 0.00") for line in lines)
    assert re.search(r"\| SDPO +\| 3 +\| 0.000 +\| 0.000 +\| 0.000 +\| \d+ +\|", run.stdout)
    assert (folder / "accuracy.png").stat().st_size > 1000
    assert (folder / "report.html").stat().st_size > 1000
    assert list(Run(folder).metrics) == [0, 1]
    (_, step) = (record["data"] for record in tiny.read_metrics(folder / "metrics.jsonl"))
    assert step["self_distillation/reprompt_sample_fraction"] == 1.0
    assert step["actor/grad_norm"] > 0
    # What tells tests of mistakes that Ray was not started: a run that did start it says so.
    assert "ray init kwargs" in (folder / "verl.log").read_text()
