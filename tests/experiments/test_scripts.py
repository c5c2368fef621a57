"""Every shell script of the repository."""

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.experiments.conftest import REPO, SCRIPTS


def shell_scripts() -> list[str]:
    folders = ("baseline_multiturn", "data", "docker", "experiments", "tests")
    scripts = [script for folder in folders for script in (REPO / folder).rglob("*.sh")]
    scripts += [REPO / ".ci" / "run", REPO / "experiments" / "site.example.env"]
    return sorted(str(script.relative_to(REPO)) for script in scripts)


def test_the_list_is_not_empty():
    assert {f"experiments/{script}" for script in SCRIPTS} < set(shell_scripts())


@pytest.mark.parametrize("script", shell_scripts())
def test_bash_can_read_it(script):
    run = subprocess.run(["bash", "-n", script], cwd=REPO, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")


def test_shellcheck_finds_nothing():
    shellcheck = Path(sysconfig.get_path("scripts"), "shellcheck")
    run = subprocess.run([shellcheck, *shell_scripts()], cwd=REPO, capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_setup_does_not_empty_an_environment_that_it_did_not_make(tmp_path):
    (tmp_path / "experiments").mkdir()
    script = shutil.copy(REPO / "experiments" / "setup_cpu.sh", tmp_path / "experiments")
    shutil.copy(REPO / "requirements-cpu.txt", tmp_path)
    precious = tmp_path / "elsewhere" / "precious.txt"
    precious.parent.mkdir()
    precious.write_text("mine")
    (tmp_path / ".venv").symlink_to(precious.parent)
    run = subprocess.run(["bash", script], capture_output=True, text=True)
    assert run.returncode == 1
    assert "was not made by" in run.stderr
    assert precious.read_text() == "mine"
