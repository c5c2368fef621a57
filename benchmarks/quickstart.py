"""Time of a step, and steps to 0.9 training accuracy: ours, verl's GRPO and TRL's SDPO trainer on the same tasks.

    python -m benchmarks.quickstart [--trl-python outputs/trl/bin/python] [--steps 15] [--seeds 0] [--json FILE]

Model and data are the quickstart's (`bash experiments/quickstart/run.sh` builds both), the budget its 4 prompts x 8
answers of 40 tokens a step; one training after the other. TRL is measured in an environment of its own, since verl
imports it where it finds it and then fails; this one sees the packages of ours:

    python -m venv outputs/trl
    realpath .venv/lib/python3.*/site-packages > $(echo outputs/trl/lib/python3.*/site-packages)/ours.pth
    outputs/trl/bin/python -m pip install --no-deps trl==1.16.0

Training accuracy is that of a step's 32 samples, which is noisy: the first step at 0.9 says when it gets there, not
that it stays. Validation is left out of all. "whole command" is from the start of Python to its end.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from verl.sdpo.runs.guard_rules import ACCURACY
from verl.sdpo.runs.reader import Run

OUT = Path("outputs/quickstart")
TASK = "tool-json"
SYSTEMS = {"ours": "SDPO, ours", "grpo": "GRPO, verl", "trl": "SDPO, TRL"}
GOAL = 0.9


def train_verl(algorithm: str, folder: Path, steps: int, seed: int) -> list[dict]:
    """Records of the steps of one training by experiments/quickstart/train.py."""
    settings = ["--task", TASK, "--algorithm", algorithm, "--steps", str(steps), "--seed", str(seed)]
    paths = ["--model", str(OUT / "model"), "--data", str(OUT / "data"), "--runs", str(folder)]
    no_validation = ["trainer.val_before_train=False", "trainer.test_freq=-1"]
    command = [sys.executable, "-m", "experiments.quickstart.train", *paths, *settings, *no_validation]
    subprocess.run(command, check=True)
    (run,) = folder.iterdir()
    metrics = Run(run).metrics.items()
    return [{"step": step, "train": row[ACCURACY], "seconds": row["timing_s/step"]} for step, row in metrics]


def train_trl(python: Path, folder: Path, steps: int, seed: int) -> list[dict]:
    """The same of TRL's trainer."""
    folder.mkdir(parents=True)
    metrics = folder / "metrics.jsonl"
    data = OUT / "data" / TASK / "train.parquet"
    arguments = [str(OUT / "model"), str(data), str(metrics), "--steps", str(steps), "--seed", str(seed)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    subprocess.run([python, "-m", "benchmarks.trl_sdpo", *arguments], check=True, env=environment)
    return [json.loads(line) for line in metrics.read_text().splitlines()]


def summary(records: list[dict]) -> dict:
    """Return of one training the median step, the first step at the goal (None: never), and the minutes until then."""
    reached = next((i for i, record in enumerate(records, 1) if record["train"] >= GOAL), None)
    seconds = [record["seconds"] for record in records]
    return {
        "seconds_per_step": statistics.median(seconds),
        "steps_to_goal": reached and records[reached - 1]["step"],
        "minutes_to_goal": reached and sum(seconds[:reached]) / 60,
        "train": [record["train"] for record in records],
    }


def table(rows: list[dict]) -> str:
    lines = [f"| | seed | s/step | whole command, s | steps to {GOAL} | minutes to {GOAL} |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for row in rows:
        reached = f"{row['steps_to_goal']} | {row['minutes_to_goal']:.1f} |" if row["steps_to_goal"] else "never | |"
        seconds = f"{row['seconds_per_step']:.1f} | {row['command_seconds']:.0f}"
        lines.append(f"| {SYSTEMS[row['system']]} | {row['seed']} | {seconds} | {reached}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--trl-python", type=Path, default=Path("outputs/trl/bin/python"))
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    args = parser.parse_args()
    if "trl" in args.systems and not args.trl_python.is_file():
        raise SystemExit(
            f"--trl-python {args.trl_python} does not exist: python -m benchmarks.quickstart --help says how"
        )
    folder = OUT / "benchmark" / time.strftime("%Y%m%d-%H%M%S")
    rows = []
    for seed in args.seeds:
        for system in args.systems:
            place, start = folder / f"{system}-seed{seed}", time.perf_counter()
            if system == "trl":
                records = train_trl(args.trl_python, place, args.steps, seed)
            else:
                records = train_verl("sdpo" if system == "ours" else system, place, args.steps, seed)
            seconds = time.perf_counter() - start
            rows.append({"system": system, "seed": seed, "command_seconds": seconds, **summary(records)})
            print(table(rows), flush=True)
            if args.json:
                args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
