"""Tests on a GPU: `PYTHON=/path/to/gpu/venv/bin/python bash tests/run.sh -m gpu`, one table and gpu-report.json."""

import json
from pathlib import Path

import pytest
import torch

from tests.e2e.tiny import build_model
from tests.sdpo.distributed import RankGroup

REPORT = Path(__file__).parents[2] / "gpu-report.json"
NO_GPU = "no GPU is visible to torch"
# The largest model is written, read twice, and trained.
CHECK_SECONDS = 900
rows: list[dict] = []


@pytest.fixture(autouse=True)
def gpu_or_skip(request):
    if request.node.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip(NO_GPU)


@pytest.fixture(scope="session")
def rank_of(tmp_path_factory):
    """`rank_of(device)`: one rank on the device, the same for all tests."""
    groups: dict[str, RankGroup] = {}

    def get(device: str) -> RankGroup:
        if device not in groups:
            groups[device] = RankGroup(1, tmp_path_factory.mktemp("rank"), device, CHECK_SECONDS)
        return groups[device]

    yield get
    for group in groups.values():
        group.close()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> str:
    return str(build_model(tmp_path_factory.mktemp("model"), initializer_range=0.2))


def row(item, report) -> dict:
    """Of the table: what was tested, how it ended, and what it measured."""
    return {
        "test": item.name,
        "outcome": report.outcome,
        "seconds": round(report.duration, 2),
        "measured": {name: round(value, 3) for name, value in report.user_properties},
    }


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    if item.get_closest_marker("gpu") and (report.when == "call" or report.outcome != "passed"):
        rows.append(row(item, report))
    return report


def pytest_terminal_summary(terminalreporter, config):
    if config.option.markexpr != "gpu":
        return
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    terminalreporter.section(f"GPU: {name}")
    for each in rows:
        measured = "  ".join(f"{key} {value:g}" for key, value in each["measured"].items())
        terminalreporter.write_line(f"{each['outcome']:8}{each['seconds']:8.1f} s  {each['test']}  {measured}")
    # Only what ran on a GPU is a report.
    if torch.cuda.is_available():
        versions = {"gpu": name, "torch": torch.__version__, "cuda": torch.version.cuda}
        REPORT.write_text(json.dumps({**versions, "tests": rows}, indent=1) + "\n")
