"""The walls of the house: the algorithm knows nothing of verl, and the adapters hold no maths."""

import ast
from pathlib import Path

import pytest

import verl.sdpo

FOLDER = Path(verl.sdpo.__file__).parent
ALGORITHM = sorted(path.name for path in FOLDER.glob("*.py") if path.name != "plugin.py")


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("name", ALGORITHM)
def test_a_file_of_the_algorithm_imports_torch_and_the_standard_library_only(name):
    import sys

    for module in imports(FOLDER / name):
        if module.startswith("verl.sdpo."):
            assert f"{module.split('.')[2]}.py" in ALGORITHM, module
        else:
            assert module.split(".")[0] in {*sys.stdlib_module_names, "torch"} or module == "verl.sdpo", module


def test_a_wall_can_be_broken():
    assert imports(FOLDER / "adapters" / "engine.py") >= {"verl.sdpo.head", "verl.workers.engine", "torch"}


@pytest.mark.parametrize(("name", "lines"), [("engine", 190), ("trainer", 100)])
def test_adapters_stay_thin(name, lines):
    assert len((FOLDER / "adapters" / f"{name}.py").read_text().splitlines()) <= lines


def test_the_engine_has_no_maths():
    """No logarithm, no softmax, no loss: such names belong to head.py and objective.py."""
    tree = ast.parse((FOLDER / "adapters" / "engine.py").read_text())
    called = {
        node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    assert not called & {"exp", "log", "logsumexp", "softmax", "log_softmax", "topk", "lerp", "mean", "gather"}
