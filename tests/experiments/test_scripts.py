"""Every shell script of the repository."""

import os
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


@pytest.mark.parametrize("folder", [".venv", "elsewhere"], ids=["folder", "link"])
def test_setup_does_not_empty_an_environment_that_it_did_not_make(tmp_path, folder):
    (tmp_path / "experiments").mkdir()
    script = shutil.copy(REPO / "experiments" / "setup_cpu.sh", tmp_path / "experiments")
    shutil.copy(REPO / "requirements-cpu.txt", tmp_path)
    precious = tmp_path / folder / "precious.txt"
    precious.parent.mkdir()
    precious.write_text("mine")
    if folder != ".venv":
        (tmp_path / ".venv").symlink_to(precious.parent)
        # One that another clone's set-up has made, from other pins.
        (precious.parent / "installed-requirements.txt").write_text("torch==1.0\n")
    # Without a Python it could not install anything, were it to go on.
    run = subprocess.run(["bash", script], env={**os.environ, "PYTHON": "none"}, capture_output=True, text=True)
    assert run.returncode == 1
    assert "was not made by" in run.stderr
    assert precious.read_text() == "mine"
