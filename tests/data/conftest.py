import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from .hub import write_hub

# No hub, and a cache of our own. `datasets` reads both once, when the first test module imports it.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = _home = tempfile.mkdtemp(prefix="hf_home")
atexit.register(shutil.rmtree, _home, ignore_errors=True)

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def hub(tmp_path_factory) -> Path:
    return write_hub(tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The published records, which this repository does not carry."""
    folder = Path(os.environ.get("SDPO_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "sciknoweval").is_dir():
        pytest.skip(
            "needs the published records: clone https://github.com/lasgroup/SDPO and set SDPO_SHARED_DATA to its "
            "folder datasets"
        )
    return folder


def start(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run a command as a user would, from a folder that is not the repository."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=os.environ | {"PYTHON": sys.executable} | environment,
        capture_output=True,
        text=True,
    )


def script(name: str, *arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    return start(sys.executable, REPOSITORY / "data" / name, *arguments, cwd=cwd, **environment)


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def record(**changes) -> dict:
    """A unified record that `preprocess.py` accepts."""
    return {
        "idx": 0,
        "kind": "mcq",
        "dataset": "sciknoweval",
        "answer": "A",
        "elo": 1500,
        "prompt": "Which?",
        "description": "Which?",
        "tests": "-",
        "public_tests": None,
        "system": None,
    } | changes


def code_record(idx: int, count: int) -> dict:
    """A code task with `count` tests."""
    tests = {
        "inputs": [f"in {number}" for number in range(count)],
        "outputs": [f"out {number}" for number in range(count)],
        "testtype": "stdin",
        "fn_name": "",
        "time_limit": 6,
    }
    return record(
        idx=idx,
        kind="code",
        dataset="livecodebench",
        answer="-",
        prompt=f"Solve {idx}",
        tests=json.dumps(tests),
        public_tests=json.dumps(tests | {"inputs": ["1"], "outputs": ["1"]}),
    )
