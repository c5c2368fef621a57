"""A copy of the launcher's files in a folder with a space in its name, and a machine with a fake Slurm."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
from omegaconf import OmegaConf

REPO = Path(__file__).parents[2]
# Of section 3 and 4 of the paper, with the number of their runs.
SCRIPTS = {
    "generalization/run_sdpo_all.sh": 30,
    "generalization/run_baseline_grpo_all.sh": 120,
    "rich_feedback/run_sdpo.sh": 3,
    "rich_feedback/run_baseline_grpo.sh": 3,
}
DATASETS = [
    "datasets/sciknoweval/biology",
    "datasets/sciknoweval/chemistry",
    "datasets/sciknoweval/material",
    "datasets/sciknoweval/physics",
    "datasets/tooluse",
    "datasets/lcb_v6",
]
SBATCH = """
count=$(ls "$FAKE" | grep -c sbatch)
cp "${@: -1}" "$FAKE/sbatch.$count"
echo "$((1000 + count));cluster"
"""
SQUEUE = """cd "$FAKE" && ls | sed -n 's/^queued[.]//p'"""
SCONTROL = """echo "$@" >>"$FAKE/scontrol" """


class Machine:
    """Starts scripts of a copy of `experiments/`, from another folder, with commands that the test replaces."""

    def __init__(self, folder: Path):
        self.processes: list[subprocess.Popen] = []
        self.repo = folder / "a repo"
        self.fake = folder / "fake"
        self.bin = folder / "bin"
        self.elsewhere = folder / "elsewhere"
        for made in (self.fake, self.bin, self.elsewhere):
            made.mkdir()
        shutil.copytree(REPO / "experiments", self.repo / "experiments", ignore=shutil.ignore_patterns("site.env"))
        self.user_yaml = self.repo / "verl/trainer/config/user.yaml"
        for file in (self.user_yaml, self.repo / "verl/sdpo/doctor/wandb_login.py"):
            file.parent.mkdir(parents=True)
            shutil.copy(REPO / file.relative_to(self.repo), file)
        self.environment = {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "HOME": str(folder),
            "FAKE": str(self.fake),
        }
        self.training("exit 0")

    @property
    def runs(self) -> Path:
        return self.repo / "outputs" / "logs"

    @property
    def checkpoints(self) -> Path:
        return self.repo / "outputs" / "checkpoints"

    def command(self, name: str, body: str) -> None:
        (self.bin / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (self.bin / name).chmod(0o755)

    def training(
        self,
        body: str,
        *,
        doctor: str = "exit 0",
        report: str = "exit 0",
        more: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """What the fake Python does for verl's trainer, for the doctor before it, for the report after it and for
        `more` modules; all else the real one does.
        """
        bodies = {"verl.trainer.main_ppo": body, "verl.sdpo.doctor": doctor, "verl.sdpo.report": report, **more}
        cases = "\n".join(f"{module}) {code} ;;" for module, code in bodies.items())
        cases += f'\n*) exec {shlex.quote(sys.executable)} "$@" ;;'
        self.command("python", f'case "${{2-}}" in\n{cases}\nesac')

    def add_slurm(self, site: str = "") -> None:
        self.command("sbatch", SBATCH)
        self.command("squeue", SQUEUE)
        self.command("scontrol", SCONTROL)
        (self.repo / "experiments" / "site.env").write_text(site)

    def add_data(self, *tasks: str) -> None:
        for task in tasks:
            (self.repo / task).mkdir(parents=True, exist_ok=True)
            for split in ("train", "test"):
                (self.repo / task / f"{split}.parquet").touch()

    def recipe(self, name: str, **content) -> str:
        """A recipe outside the repository; returns its path, as a user in `elsewhere` would write it."""
        OmegaConf.save(OmegaConf.create({"name": name, **content}), self.elsewhere / f"{name}.yaml")
        return f"{name}.yaml"

    def start(self, script: Path, *arguments: str, **environment: str) -> subprocess.Popen:
        process = subprocess.Popen(
            ["bash", str(script), *arguments],
            cwd=self.elsewhere,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def run(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        """Run a script below `experiments/`."""
        process = self.start(self.repo / "experiments" / script, *arguments, **environment)
        stdout, stderr = process.communicate(timeout=60)
        return subprocess.CompletedProcess(script, process.returncode, stdout, stderr)

    def submitted(self) -> list[str]:
        """The scripts that sbatch was given."""
        return [path.read_text() for path in sorted(self.fake.glob("sbatch.*"), key=lambda path: int(path.suffix[1:]))]

    def files(self) -> set[str]:
        return {os.path.join(folder, name) for folder, _, names in os.walk(self.repo) for name in names}


@pytest.fixture
def machine(tmp_path):
    machine = Machine(tmp_path)
    yield machine
    for process in machine.processes:
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=60)
