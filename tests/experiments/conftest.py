"""A copy of the launcher's files in a folder with a space in its name, and a machine with a fake Slurm."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
SCRIPTS = {
    "generalization/run_sdpo_all.sh": 10,
    "generalization/run_baseline_grpo_all.sh": 40,
    "rich_feedback/run_sdpo.sh": 1,
    "rich_feedback/run_baseline_grpo.sh": 1,
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
SQUEUE = """cat "$FAKE/queued.${@: -1}" """
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
        self.user_yaml.parent.mkdir(parents=True)
        shutil.copy(REPO / "verl/trainer/config/user.yaml", self.user_yaml)
        self.environment = {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "HOME": str(folder),
            "FAKE": str(self.fake),
        }

    @property
    def runs(self) -> Path:
        return self.repo / "outputs" / "logs"

    @property
    def checkpoints(self) -> Path:
        return self.repo / "outputs" / "checkpoints"

    def command(self, name: str, body: str) -> None:
        (self.bin / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (self.bin / name).chmod(0o755)

    def training(self, body: str, *, doctor: str = "exit 0") -> None:
        """What the fake Python does for verl's trainer, and for the doctor before it."""
        self.command("python", f"if [[ $2 == verl.sdpo.doctor ]]; then {doctor}; fi\n{body}")

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
