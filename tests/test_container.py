"""Dockerfile.gh200 cannot be built without its base image; its text is linted and its check is run here."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
DOCKERFILE = REPOSITORY / "Dockerfile.gh200"


def hadolint(path: Path) -> subprocess.CompletedProcess:
    linter = Path(sys.executable).with_name("hadolint")
    return subprocess.run([linter, path], capture_output=True, text=True, timeout=60)


def install_sh(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", REPOSITORY / "docker" / "install.sh", *arguments],
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_dockerfile_is_clean():
    run = hadolint(DOCKERFILE)
    assert run.returncode == 0, run.stdout


def test_the_linter_would_complain(tmp_path):
    worse = tmp_path / "Dockerfile"
    worse.write_text(DOCKERFILE.read_text() + "RUN cd /tmp && pip install numpy\n")
    run = hadolint(worse)
    assert run.returncode == 1
    assert {"DL3003", "DL3013"} <= set(run.stdout.split())


def test_what_the_image_needs_is_not_ignored():
    """`.dockerignore` lets nothing through but what it names; this package is installed from that."""
    allowed = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    needed = {"docker", "verl", "setup.py", "pyproject.toml", "README.md", "LICENSE", "requirements-gh200.txt"}
    assert needed <= allowed
    assert all((REPOSITORY / name).exists() for name in allowed)


def test_check_accepts_an_environment_that_works():
    run = install_sh("check", sys.prefix, "--config-name", "sdpo", VERL_PLATFORM="cpu")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "OK    plugin" in run.stdout
    assert "OK    vllm" in run.stdout
    assert run.stdout.splitlines()[-1] == "Ready: 0 failed, 0 to look at, of 6 checks."


def test_check_refuses_an_environment_without_the_engine():
    """Without VERL_PLATFORM=cpu nobody answers for the distribution `vllm`, and flash-attn is missing as well."""
    run = install_sh("check", sys.prefix, "--config-name", "sdpo")
    assert run.returncode == 1
    assert "FAIL  vllm            not installed" in run.stdout


def test_without_a_step_it_says_how_to_use_it():
    run = install_sh()
    assert run.returncode == 2
    assert "Usage: bash docker/install.sh install VENV" in run.stderr
