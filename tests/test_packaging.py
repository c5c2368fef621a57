"""The wheel merges into stock verl's folders, so it must hold our files, all of them, and nothing of verl's."""

import importlib.metadata
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
OURS = ("verl/sdpo", "verl/utils/reward_score/feedback")


@pytest.fixture(scope="module")
def wheel_files(tmp_path_factory) -> set[str]:
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        folder,
        REPOSITORY,
    ]
    subprocess.run(command, check=True, timeout=120)
    with zipfile.ZipFile(next(folder.glob("sdpo-*.whl"))) as wheel:
        return {name for name in wheel.namelist() if ".dist-info/" not in name}


def test_wheel_holds_all_our_modules_and_configurations(wheel_files):
    patterns = [(folder, "*.py") for folder in OURS]
    patterns += [
        ("verl/trainer/config", "*.yaml"),
        *(("verl/sdpo/report", f"page.{end}") for end in ("html", "css", "js")),
    ]
    files = [path for folder, pattern in patterns for path in (REPOSITORY / folder).rglob(pattern)]
    assert wheel_files == {str(path.relative_to(REPOSITORY)) for path in files}
    assert "verl/sdpo/report/page.js" in wheel_files


def test_wheel_overwrites_nothing_of_stock_verl(wheel_files):
    stock = {str(path) for path in importlib.metadata.files("verl")}
    assert not wheel_files & stock
    assert "verl/__init__.py" in stock
