"""Runs a study of the quickstart's tasks: arms times seeds, one run after the other, and compares them in a table.

    python -m experiments.study NAME [--seeds 0 1 2] [--arms ARM ...] [--budget STEPS]

NAME is a file of experiments/studies/. The same command again goes on: complete runs are kept, an interrupted one is
begun anew. `bash experiments/quickstart/run.sh` once before installs, builds the model and writes the tasks.
"""

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from data.records import replacing
from experiments.overrides import override
from experiments.quickstart import train
from experiments.quickstart.report import Run
from experiments.study_table import table

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
    """In Hydra's grammar, those of the whole study first."""


@dataclass(frozen=True)
class Study:
    """What is compared, on what."""

    name: str
    task: str
    steps: int
    """Of training, in every run."""
    seeds: tuple[int, ...]
    arms: tuple[Arm, ...]
    """The others are compared with the first."""


@dataclass(frozen=True)
class Planned:
    """One run of a study."""

    arm: Arm
    settings: argparse.Namespace
    """The arguments of the quickstart's training."""
    run: Run

    @property
    def is_complete(self) -> bool:
        """Whether the last step was measured.

        Raises:
            ValueError: the folder holds a run of other settings.
        """
        if not self.run.settings_file.exists():
            return False
        wanted, found = train.settings_of(self.settings), self.run.settings()
        if wanted != found:
            differ = [
                f"{key} {found.get(key)!r}, not {value!r}" for key, value in wanted.items() if found.get(key) != value
            ]
            raise ValueError(
                f"{self.run.folder} was run with {'; '.join(differ)}. Move it away, or name another folder with --out."
            )
        records = self.run.records()
        return bool(records) and records[-1]["step"] == self.settings.steps and records[-1]["heldout"] is not None


def load(name: str) -> Study:
    """The study of that name.

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
    """The study's arms of these names.

    Raises:
        ValueError: it has none of such a name.
    """
    known = [arm.name for arm in study.arms]
    for name in names:
        if name not in known:
            raise ValueError(f"{study.name} has no arm {name}. It has {', '.join(known)}.")
    return tuple(arm for arm in study.arms if arm.name in names)


def plan(study: Study, folder: Path, model: Path, data: Path) -> list[Planned]:
    """All runs, seed by seed, so that every arm has been run as often as the others if the study ends early."""
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
            planned.append(Planned(arm, settings, Run(folder / f"{arm.name}-seed{seed}")))
    return planned


def carry_out(planned: Sequence[Planned]) -> list[Planned]:
    """Train what is not complete yet. Returns the runs that failed, of which the others are independent."""
    # Before the first run, so that hours of training do not end in an error that was there from the start.
    waiting = [one for one in planned if not one.is_complete]
    print(f"{len(planned)} runs, {len(planned) - len(waiting)} complete.", flush=True)
    failed = []
    for number, one in enumerate(waiting, 1):
        print(f"\nRun {number} of {len(waiting)}: {one.run.folder.name}", flush=True)
        shutil.rmtree(one.run.folder, ignore_errors=True)
        if not train.train(one.settings, one.run):
            failed.append(one)
    return failed


def summarise(study: Study, planned: Sequence[Planned], target: Path) -> None:
    """Print the table of the complete runs and write it to a file, and their report beside it."""
    complete = [one for one in planned if one.is_complete]
    arms: dict[str, dict[int, Run]] = {arm.name: {} for arm in study.arms}
    for one in complete:
        arms[one.arm.name][one.settings.seed] = one.run
    text = table({name: runs for name, runs in arms.items() if runs})
    with replacing(target) as (partial,):
        Path(partial).write_text(f"# {study.name}: {study.task}, {study.steps} steps\n\n{text}\n")
    print(f"\n{text}\n\nTable: {target}", flush=True)
    train.draw_page([one.run for one in complete], target.with_name("report.html")).check_returncode()


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
        print(f"Failed: {one.run.folder}. See {one.run.log}.", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
