"""Every shell script of the repository."""

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
