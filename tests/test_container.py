"""Images cannot be built without their base images; the Dockerfiles are linted and their check is run here.

The commands of docs/installation.md that build and start it run with stand-ins for podman and enroot.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
DOCKERFILES = [REPOSITORY / f"Dockerfile.{machine}" for machine in ("gh200", "x86_64")]


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


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfile_is_clean(dockerfile):
    run = hadolint(dockerfile)
    assert run.returncode == 0, run.stdout


def test_the_linter_would_complain(tmp_path):
    worse = tmp_path / "Dockerfile"
    worse.write_text(DOCKERFILES[0].read_text() + "RUN cd /tmp && pip install numpy\n")
    run = hadolint(worse)
    assert run.returncode == 1
    assert {"DL3003", "DL3013"} <= set(run.stdout.split())


def test_what_the_image_needs_is_not_ignored():
    """`.dockerignore` lets nothing through but what it names; this package is installed from that."""
    allowed = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    needed = {"docker", "verl", "setup.py", "pyproject.toml", "README.md", "LICENSE"}
    needed |= {f"requirements-{name}.txt" for name in ("gh200", "full", "cuda")}
    assert needed <= allowed
    assert all((REPOSITORY / name).exists() for name in allowed)


def test_check_accepts_an_environment_that_works():
    run = install_sh("check", sys.prefix, "--config-name", "sdpo", VERL_PLATFORM="cpu")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "OK    plugin" in run.stdout
    assert "OK    vllm" in run.stdout
    assert run.stdout.splitlines()[-1] == "Ready: 0 failed, 0 to look at, of 6 checks."


def test_check_refuses_an_environment_without_the_engine():
    """No distribution is named `vllm` unless VERL_PLATFORM=cpu, and flash-attn is missing as well."""
    run = install_sh("check", sys.prefix, "--config-name", "sdpo")
    assert run.returncode == 1
    assert "FAIL  vllm            not installed" in run.stdout


def test_without_a_step_it_says_how_to_use_it():
    run = install_sh()
    assert run.returncode == 2
    assert "Usage: bash docker/install.sh install VENV" in run.stderr


def shell_blocks() -> dict[str, str]:
    """Return every shell command of the documentation, by file and number."""
    pages = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
    return {
        f"{page.name}-{number}": block
        for page in pages
        for number, block in enumerate(re.findall(r"^```bash\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE))
    }


def test_shellcheck_finds_nothing_in_the_documentation():
    """Excluded: the environment that a reader activates (SC1091) and the reader's own variables (SC2154)."""
    linter = Path(sys.executable).with_name("shellcheck")
    command = [linter, "--shell=bash", "--exclude=SC1091,SC2154", "-"]
    for name, block in shell_blocks().items():
        run = subprocess.run(command, input=block, capture_output=True, text=True, timeout=60)
        assert run.returncode == 0, f"{name}: {run.stdout}"


def test_container_commands_agree_with_one_another_and_with_the_repository(tmp_path):
    """A dry run: what is built is what is imported and started, over the folder from which the image installed it."""
    for name in ("podman", "enroot"):
        (tmp_path / name).write_text('#!/bin/sh\necho "$(basename "$0") $*"\n')
        (tmp_path / name).chmod(0o755)
    blocks = [block for block in shell_blocks().values() if "podman" in block]
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SDPO_DIR": "/scratch/me"}
    run = subprocess.run(
        ["bash", "-eu", "-c", "\n".join(blocks)], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert (run.returncode, run.stderr) == (0, "")
    build, other, imported, podman, create, start = run.stdout.splitlines()
    assert build == "podman build --file Dockerfile.gh200 --tag sdpo:gh200 ."
    assert other == "podman build --file Dockerfile.x86_64 --tag sdpo:x86_64 ."
    assert imported == "enroot import --output sdpo-gh200.sqsh podman://sdpo:gh200"
    assert create == "enroot create --name sdpo sdpo-gh200.sqsh"
    for dockerfile in DOCKERFILES:
        assert "COPY . /app/sdpo\n" in dockerfile.read_text()
    for command, mount in ((podman, "--volume"), (start, "--mount")):
        assert f"{mount} {REPOSITORY}:/app/sdpo {mount} {REPOSITORY}:{REPOSITORY}" in command
        assert f"{mount} /scratch/me:/scratch/me" in command
        assert command.endswith(
            "python -m verl.sdpo.doctor --config-name sdpo vars.task=datasets/sciknoweval/chemistry"
        )
    assert " sdpo:gh200 python" in podman
    assert " sdpo python" in start
