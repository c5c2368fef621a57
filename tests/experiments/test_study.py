"""Studies with a training that takes no time: the queue, the table, and that verl accepts every arm that is shipped."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from experiments import study
from experiments.quickstart import train
from tests.sdpo.trainings import check_training
from verl.sdpo.runs.reader import Run

REPO = Path(__file__).parents[2]
STUDIES = sorted(file.stem for file in (REPO / "experiments" / "studies").glob("*.yaml"))
HELDOUT = "val-core/renamed_key/acc/mean@1"
# Stands for verl: notes that it was started, measures before and after training, and dumps both validations. SDPO gets
# three of four questions right in the end, the others none. It does not end, or fails, where it is told to.
FAKE = f"""
import json, os, pathlib, sys, time
folder, steps = pathlib.Path(sys.argv[1]), int(sys.argv[2])
with open(os.environ["STARTED"], "a") as file:
    print(folder.name, file=file)
if os.environ.get("HANG") == folder.name:
    time.sleep(600)
def answer(question, acc):
    return {{"input": f"question {{question}}", "output": "", "uid": f"{{question}}_0_0", "score": acc, "acc": acc}}

right = 3 if folder.name.startswith("sdpo") else 0
(folder / "heldout").mkdir()
with (folder / "metrics.jsonl").open("w") as file:
    for step in (0, steps):
        acc = [float(question < right and step > 0) for question in range(4)]
        (folder / "heldout" / f"{{step}}.jsonl").write_text(
            "".join(json.dumps(answer(q, acc[q])) + "\\n" for q in (2, 0, 3, 1))
        )
        if os.environ.get("FAIL") == folder.name and step:
            sys.exit("out of memory")
        data = {{"{HELDOUT}": sum(acc) / 4, **({{"critic/score/mean": 0.5, "timing_s/step": 20.0}} if step else {{}})}}
        print(json.dumps({{"step": step, "data": data}}), file=file, flush=True)
"""


def fake(settings, run, _ray_folder):
    return [sys.executable, "-c", FAKE, str(run), str(settings.steps)]


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts a study of six runs, and says which of them were started."""
    started = tmp_path / "started"
    monkeypatch.setenv("STARTED", str(started))
    monkeypatch.setattr(train, "command", fake)

    def start(*words):
        started.write_text("")
        status = study.main(["rich_feedback", "--seeds", "0", "1", "--out", str(tmp_path), *words])
        return status, started.read_text().split()

    return start


def test_runs_are_queued_seed_by_seed_and_compared(start, tmp_path, capsys):
    arms = ("sdpo", "grpo", "hybrid")
    assert start("--budget", "2") == (0, [f"{arm}-seed{seed}" for seed in (0, 1) for arm in arms])
    text = (tmp_path / "rich_feedback" / "table.md").read_text()
    assert text.startswith("# rich_feedback: renamed-key, 2 steps\n")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert ["sdpo", "mean", "0.000", "0.750", "0.500", "20"] in rows
    by_name = {row[0]: row for row in rows if len(row) == 8 and "[" in row[2]}
    assert by_name["sdpo"][1:3] == ["2", "0.000 [0.000, 0.000]"] and by_name["sdpo"][5].startswith("0.750 [")
    assert by_name["grpo"][1:3] == ["2", "0.000 [0.000, 0.000]"] and by_name["grpo"][5] == "0.000 [0.000, 0.000]"
    assert by_name["grpo minus sdpo"][6].startswith("-0.750 [")
    assert text.split("\n", 2)[2] in capsys.readouterr().out
    assert "renamed_key" in (tmp_path / "rich_feedback" / "report.html").read_text()


def test_a_complete_study_only_shows_its_table(start, capsys):
    start("--budget", "2")
    assert start("--budget", "2") == (0, [])
    assert "6 runs, 6 complete" in capsys.readouterr().out


def test_some_arms_alone_are_run(start):
    assert start("--budget", "2", "--arms", "hybrid", "sdpo") == (
        0,
        ["sdpo-seed0", "hybrid-seed0", "sdpo-seed1", "hybrid-seed1"],
    )
    with pytest.raises(SystemExit, match=r"rich_feedback has no arm ema\. It has sdpo, grpo, hybrid\."):
        start("--arms", "ema")


def test_a_failed_run_is_named_and_tried_again(start, monkeypatch, capsys):
    monkeypatch.setenv("FAIL", "grpo-seed1")
    status, started = start("--budget", "2")
    said = capsys.readouterr()
    assert (status, len(started)) == (1, 6)
    assert "out of memory" in said.err and "Failed:" in said.err and "grpo-seed1" in said.err
    assert re.search(r"\| grpo +\| 1 +\| 0.000 \[", said.out)
    monkeypatch.delenv("FAIL")
    assert start("--budget", "2") == (0, ["grpo-seed1"])


def test_an_interrupted_study_goes_on(start, tmp_path):
    started = tmp_path / "started"
    program = (
        "import sys; from experiments import study; from experiments.quickstart import train;"
        "from tests.experiments.test_study import fake; train.command = fake; study.main(sys.argv[1:])"
    )
    words = ["rich_feedback", "--seeds", "0", "1", "--budget", "2", "--out", str(tmp_path)]
    env = {**os.environ, "HANG": "hybrid-seed0"}
    process = subprocess.Popen([sys.executable, "-c", program, *words], cwd=REPO, env=env)
    deadline = time.monotonic() + 120
    while not started.exists() or "hybrid-seed0" not in started.read_text():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert start("--budget", "2") == (0, ["hybrid-seed0", "sdpo-seed1", "grpo-seed1", "hybrid-seed1"])


def test_runs_of_another_recipe_are_not_overwritten(start, tmp_path):
    start("--budget", "2")
    with pytest.raises(SystemExit, match=r"sdpo-seed0 was run with steps 2, not 3\. Move it away"):
        start("--budget", "3")
    assert max(Run(tmp_path / "rich_feedback" / "sdpo-seed0").metrics) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [(None, "There is no study mine. Known are credit"), ("task: a\narm: {}", "there is no key 'arm'")],
)
def test_mistakes_in_a_study(tmp_path, monkeypatch, text, said):
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "credit.yaml").touch()
    if text:
        (tmp_path / "studies" / "mine.yaml").write_text(text)
    monkeypatch.setattr(study, "HERE", tmp_path)
    with pytest.raises(ValueError, match=said):
        study.load("mine")


@pytest.mark.parametrize("name", STUDIES)
def test_verl_accepts_every_arm(name, monkeypatch):
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    loaded = study.load(name)
    assert loaded.seeds == (0, 1, 2)
    composed = set()
    with initialize_config_dir(str(REPO / "experiments" / "quickstart" / "config"), version_base=None):
        for arm in loaded.arms:
            words = [*arm.overrides, "hydra.searchpath=[pkg://verl.trainer.config]"]
            config = compose(f"{loaded.task}_{arm.algorithm}", words)
            check_training(config)
            composed.add(json.dumps([config.actor_rollout_ref, config.algorithm], default=str, sort_keys=True))
    assert len(composed) == len(loaded.arms)
