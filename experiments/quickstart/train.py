"""Train on one of the quickstart's tasks with stock verl, show progress, and report at the end.

Start it by `run.sh`, which sets everything up and passes its own arguments on.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from experiments.overrides import override
from experiments.quickstart import supervise
from experiments.quickstart.environment import ENVIRONMENTS
from verl.sdpo.runs.guard_rules import ACCURACY
from verl.sdpo.runs.reader import METRICS, SETTINGS, Run

HERE = Path(__file__).resolve().parent
LOG = "verl.log"
# Tasks with feedback alone take more: their first steps only find what succeeds.
STEPS = {"tool-json": 15, "renamed-key": 24, "no-keys": 24}
# The longest time between two lines of verl's log in a healthy run: compiling and loading at the start.
STALL_SECONDS = 600
# verl's driver can hang instead of exiting when a step fails. Hydra prints this once it has seen the exception.
FAILED = b"Error executing job with overrides"
EXIT_SECONDS = 10


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True, help="where a folder for this run is made")
    parser.add_argument("--task", choices=ENVIRONMENTS, default="tool-json")
    parser.add_argument("--algorithm", choices=("sdpo", "grpo"), default="sdpo")
    parser.add_argument("--steps", type=int, help="of training; default: " + str(STEPS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("overrides", nargs="*", help="key=value, passed on to verl")
    args = parser.parse_intermixed_args()
    args.steps = args.steps or STEPS[args.task]
    return args


def command(args: argparse.Namespace, run: Path, ray_folder: str) -> list[str]:
    """Return the command that starts verl: the recipe in config/, and the paths and numbers of this run."""
    settings = {
        "data.train_files": str(args.data / args.task / "train.parquet"),
        "data.val_files": str(args.data / args.task / "test.parquet"),
        "vars.seed": args.seed,
        "actor_rollout_ref.model.path": str(args.model),
        "reward.custom_reward_function.path": str(HERE / "environment.py"),
        "trainer.total_training_steps": args.steps,
        "trainer.experiment_name": run.name,
        "trainer.default_local_dir": str(run / "checkpoints"),
        "trainer.validation_data_dir": str(run / "heldout"),
        "trainer.rollout_data_dir": str(run / "rollouts"),
        "hydra.run.dir": str(run / "hydra"),
        "+ray_kwargs.ray_init._temp_dir": ray_folder,
    }
    return [
        *(sys.executable, "-u", "-m", "verl.trainer.main_ppo"),
        *("--config-dir", str(HERE / "config"), "--config-name", f"{args.task}_{args.algorithm}"),
        *(override(key, value) for key, value in settings.items()),
        *(precision() if args.device == "cpu" else ["machine=one_gpu"]),
        *args.overrides,
    ]


def precision() -> list[str]:
    """Compute in bfloat16, as on a GPU, on a CPU with instructions for it: a step then takes a third less time.

    The weights, their gradients, the optimizer and the teacher stay in float32.
    """
    capabilities = torch.cpu.get_capabilities()
    if not any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")):
        return []
    return [f"actor_rollout_ref.{role}.fsdp_config.mixed_precision.param_dtype=bf16" for role in ("actor", "ref")]


def environment(metrics: Path, device: str = "cpu") -> dict[str, str]:
    """Return the environment of verl's process."""
    inherited = {name: value for name, value in os.environ.items() if name != "VERL_PLATFORM"}
    return {
        "HF_HUB_OFFLINE": "1",
        # On a busy machine Ray's node takes longer than the 30 s that it is given by default.
        "RAY_raylet_start_wait_time_s": "180",
        **inherited,
        **({"VERL_PLATFORM": "cpu"} if device == "cpu" else {}),
        "VERL_FILE_LOGGER_PATH": str(metrics),
    }


class Progress:
    """Print a line per training step, and fail when a run is stuck."""

    def __init__(self, folder: Path, steps: int):
        self.folder, self.steps = folder, steps
        self.log = folder / LOG
        self.shown: set[int] = set()
        self.failed_at: float | None = None
        self.log_position = 0

    def watch(self) -> None:
        """Show the steps that are new.

        Raises:
            RunFailed: verl failed without ending, or logged nothing for too long.
        """
        if (self.folder / METRICS).is_file():
            run = Run(self.folder)
            for step in sorted(run.metrics.keys() - self.shown):
                print(self.line(run, step), flush=True)
            self.shown |= run.metrics.keys()
        self.check()

    def line(self, run: Run, step: int) -> str:
        """Return the progress after a step."""
        parts = [f"step {step:3d}/{self.steps}"]
        if step in (training := run.series(ACCURACY)):
            parts.append(f"training accuracy {training[step]:.2f}")
        parts += [f"held-out accuracy {curve[step]:.2f}" for curve in run.validations.values() if step in curve]
        seconds = run.seconds_per_step
        if seconds is not None:
            parts.append(f"{seconds:.0f} s/step, about {(self.steps - step) * seconds / 60:.0f} min left")
        return "  ".join(parts)

    def check(self) -> None:
        """Raise `RunFailed` for a run that failed or is stuck."""
        now = time.time()
        with self.log.open("rb") as log:
            log.seek(self.log_position)
            text = log.read()
        self.log_position += max(len(text) - len(FAILED), 0)
        if FAILED in text and self.failed_at is None:
            self.failed_at = now
        if self.failed_at is not None and now - self.failed_at > EXIT_SECONDS:
            raise supervise.RunFailed("a step failed and verl did not exit")
        silence = now - self.log.stat().st_mtime
        if silence > STALL_SECONDS:
            raise supervise.RunFailed(f"no output for {silence:.0f} s")


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return what defines a run, as its folder keeps it."""
    return {name: getattr(args, name) for name in ("task", "algorithm", "seed", "steps", "device", "overrides")}


def train(args: argparse.Namespace, folder: Path) -> bool:
    """Train in a new folder and show progress, or on failure the end of the log. Return True on success."""
    folder.mkdir(parents=True)
    (folder / SETTINGS).write_text(json.dumps(settings_of(args), indent=1))
    log = folder / LOG
    # Not below the run's folder: the path of a Unix socket may have 107 bytes, and Ray needs most of them.
    ray_folder = tempfile.mkdtemp(prefix="sdpo-ray-")
    print(f"Training on {args.task} with {args.algorithm.upper()}. verl's output: {log}", flush=True)
    try:
        supervise.run(
            command(args, folder, ray_folder),
            env=environment(folder / METRICS, args.device),
            log=log,
            watch=Progress(folder, args.steps).watch,
        )
    except supervise.RunFailed as error:
        print(f"\nTraining failed: {error}. The last lines of {log}:\n", file=sys.stderr)
        sys.stderr.writelines(log.read_text(errors="replace").splitlines(keepends=True)[-30:])
        return False
    finally:
        shutil.rmtree(ray_folder, ignore_errors=True)
    return True


def report(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `python -m verl.sdpo.report`."""
    environment = {**os.environ, "VERL_PLATFORM": "cpu"}
    return subprocess.run([sys.executable, "-m", "verl.sdpo.report", *words], env=environment, **options)


def main() -> int:
    args = parse_arguments()
    folder = args.runs / f"{args.task}-{args.algorithm}-seed{args.seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    if not train(args, folder):
        return 1
    print(flush=True)
    files = ("--plot", str(folder / "accuracy.png"), "--out", str(folder / "report.html"))
    return report(str(folder), "--text", *files).returncode


if __name__ == "__main__":
    sys.exit(main())
