"""Run a study of the quickstart's tasks: arms times seeds, one run after the other, compared in tables.

    python -m experiments.study NAME [--seeds 0 1 2] [--arms ARM ...] [--budget STEPS]

NAME is a file of experiments/studies/. The same command again continues the study: complete runs are kept, an
interrupted one is started anew. `bash experiments/quickstart/run.sh` once before installs, builds the model and writes
the tasks.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from data.records import replacing
from experiments.overrides import override
from experiments.quickstart import train
from verl.sdpo.runs.reader import METRICS, SETTINGS, Run

HERE = Path(__file__).resolve().parent
QUICKSTART = HERE.parent / "outputs" / "quickstart"
KEYS = ("task", "steps", "seeds", "overrides", "arms")
ARM_KEYS = ("algorithm", "overrides")


@dataclass(frozen=True)
class Arm:
    """One way to train."""

    name: str
    algorithm: str
    overrides: tuple[str, ...]
    """Hydra's overrides, those of the whole study first."""


@dataclass(frozen=True)
class Study:
    """Arms to compare on a task."""

    name: str
    task: str
    steps: int
    """Training steps of every run."""
    seeds: tuple[int, ...]
    arms: tuple[Arm, ...]
    """All others are compared with the first."""


@dataclass(frozen=True)
class Planned:
    """One run of a study."""

    arm: Arm
    settings: argparse.Namespace
    """The arguments of the quickstart's training."""
    folder: Path

    @property
    def is_complete(self) -> bool:
        """True once the last step is validated.

        Raises:
            ValueError: the folder holds a run of other settings.
        """
        file = self.folder / SETTINGS
        if not file.exists():
            return False
        expected, found = train.settings_of(self.settings), json.loads(file.read_text())
        if expected != found:
            differ = [
                f"{key} {found.get(key)!r}, not {value!r}" for key, value in expected.items() if found.get(key) != value
            ]
            raise ValueError(
                f"{self.folder} was run with {'; '.join(differ)}. Move it away, or name another folder with --out."
            )
        if not (self.folder / METRICS).is_file():
            return False
        return any(self.settings.steps in curve for curve in Run(self.folder).validations.values())


def load(name: str) -> Study:
    """Return the study of that name.

    Raises:
        ValueError: there is none, or it holds a key that is not known.
    """
    path = HERE / "studies" / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml")))
        raise ValueError(f"There is no study {name}. Known are {known}.")
    content: Any = OmegaConf.to_container(OmegaConf.load(path))
    _require_keys(path, content, KEYS)
    shared = content.get("overrides", {})
    arms = []
    for arm, settings in content["arms"].items():
        _require_keys(path, settings, ARM_KEYS)
        words = {**shared, **settings.get("overrides", {})}
        arms.append(Arm(arm, settings["algorithm"], tuple(override(key, value) for key, value in words.items())))
    return Study(name, content["task"], content["steps"], tuple(content["seeds"]), tuple(arms))


def _require_keys(path: Path, content: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in content:
        if key not in known:
            raise ValueError(f"{path}: there is no key '{key}' here. Known are {', '.join(known)}.")


def chosen(study: Study, names: Sequence[str]) -> tuple[Arm, ...]:
    """Return the study's arms of these names.

    Raises:
        ValueError: the study has no arm of such a name.
    """
    known = [arm.name for arm in study.arms]
    for name in names:
        if name not in known:
            raise ValueError(f"{study.name} has no arm {name}. It has {', '.join(known)}.")
    return tuple(arm for arm in study.arms if arm.name in names)


def plan(study: Study, folder: Path, model: Path, data: Path) -> list[Planned]:
    """Return all runs, seed by seed, so that every arm has been run as often as the others if the study ends early."""
    planned = []
    for seed in study.seeds:
        for arm in study.arms:
            settings = argparse.Namespace(
                model=model,
                data=data,
                task=study.task,
                algorithm=arm.algorithm,
                steps=study.steps,
                seed=seed,
                device="cpu",
                overrides=list(arm.overrides),
            )
            planned.append(Planned(arm, settings, folder / f"{arm.name}-seed{seed}"))
    return planned


def carry_out(planned: Sequence[Planned]) -> list[Planned]:
    """Train what is not complete yet, and return the runs that failed. The others are independent of these."""
    # Before the first run, so that hours of training do not end in an error that was there from the start.
    waiting = [one for one in planned if not one.is_complete]
    print(f"{len(planned)} runs, {len(planned) - len(waiting)} complete.", flush=True)
    failed = []
    for number, one in enumerate(waiting, 1):
        print(f"\nRun {number} of {len(waiting)}: {one.folder.name}", flush=True)
        shutil.rmtree(one.folder, ignore_errors=True)
        if not train.train(one.settings, one.folder):
            failed.append(one)
    return failed


def summarise(study: Study, planned: Sequence[Planned], target: Path) -> None:
    """Print the tables of the complete runs and write them to a file, and the page of the report beside it."""
    # Arm by arm: the others are compared with the first.
    ordered = sorted(planned, key=lambda one: study.arms.index(one.arm))
    words = [f"{one.arm.name}={one.folder}" for one in ordered if one.is_complete]
    text = train.report(*words, "--text", check=True, stdout=subprocess.PIPE, text=True).stdout
    with replacing(target) as (partial,):
        Path(partial).write_text(f"# {study.name}: {study.task}, {study.steps} steps\n\n{text}")
    print(f"\n{text}\nTables: {target}", flush=True)
    train.report(*words, "--out", str(target.with_name("report.html")), check=True)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of the study's own")
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="only these, in the study's order")
    parser.add_argument(
        "--budget", type=int, metavar="STEPS", help="training steps of every run, instead of the study's"
    )
    parser.add_argument("--model", type=Path, default=QUICKSTART / "model")
    parser.add_argument("--data", type=Path, default=QUICKSTART / "data")
    parser.add_argument("--out", type=Path, default=HERE.parent / "outputs" / "studies", help="gets a folder NAME")
    args = parser.parse_args(words)
    try:
        study = load(args.study)
        study = replace(study, seeds=tuple(args.seeds or study.seeds), steps=args.budget or study.steps)
        study = study if args.arms is None else replace(study, arms=chosen(study, args.arms))
        planned = plan(study, args.out / study.name, args.model, args.data)
        failed = carry_out(planned)
    except ValueError as error:
        sys.exit(f"{error}")
    if len(failed) < len(planned):
        summarise(study, planned, args.out / study.name / "table.md")
    for one in failed:
        print(f"Failed: {one.folder}. See {one.folder / train.LOG}.", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
