"""Import boundaries: the algorithm knows nothing of verl, packages form no circle, programs are imported by nobody."""

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import verl.sdpo

FOLDER = Path(verl.sdpo.__file__).parent
REPOSITORY = FOLDER.parents[1]
ALGORITHM = sorted(path.name for path in FOLDER.glob("*.py") if path.name != "plugin.py")
PACKAGES = sorted(path.parent.name for path in FOLDER.glob("*/__init__.py"))
PROGRAMS = ("doctor", "probe", "report")
WITHOUT_VERL = ("preflight", "runs", "memory")


def imports(source: str, *, with_lazy: bool = True) -> Iterator[str]:
    """The modules that a source imports; without `with_lazy` only those that importing it imports."""
    pending: list[ast.AST] = [ast.parse(source)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        if with_lazy or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            pending.extend(ast.iter_child_nodes(node))


def packages_imported(source: str, *, with_lazy: bool = True) -> set[str]:
    """Packages of `verl.sdpo` that a source imports."""
    names = (re.match(r"verl\.sdpo\.(\w+)", module) for module in imports(source, with_lazy=with_lazy))
    return {name.group(1) for name in names if name} & set(PACKAGES)


def is_of_verl(module: str) -> bool:
    """Whether a module belongs to stock verl."""
    ours = ("verl.sdpo", "verl.utils.reward_score.feedback")
    return module.split(".")[0] == "verl" and not module.startswith(ours)


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The nodes that remain when those without an edge have been removed again and again."""
    graph = dict(graph)
    while leaves := [name for name, edges in graph.items() if not edges & graph.keys()]:
        for leaf in leaves:
            del graph[leaf]
    return sorted(graph)


@pytest.mark.parametrize("name", ALGORITHM)
def test_a_file_of_the_algorithm_imports_torch_and_the_standard_library_only(name):
    for module in imports((FOLDER / name).read_text()):
        if module.startswith("verl.sdpo."):
            owner = f"{module.split('.')[2]}.py"
            assert owner in ALGORITHM or hasattr(verl.sdpo, module.split(".")[2]), module
        else:
            assert module.split(".")[0] in {*sys.stdlib_module_names, "torch"}, module


@pytest.mark.parametrize("package", WITHOUT_VERL)
def test_a_package_without_verl(package):
    for file in (FOLDER / package).glob("*.py"):
        assert not [module for module in imports(file.read_text()) if is_of_verl(module)], file


def test_packages_form_no_circle():
    graph = {
        package: set().union(
            *(packages_imported(file.read_text(), with_lazy=False) for file in (FOLDER / package).glob("*.py"))
        )
        - {package}
        for package in PACKAGES
    }
    assert circle(graph) == []


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_is_imported_by_nobody(program):
    for folder in ("verl", "data", "experiments", "benchmarks", "baseline_multiturn"):
        for file in (REPOSITORY / folder).rglob("*.py"):
            if file.parent != FOLDER / program:
                assert program not in packages_imported(file.read_text()), file


def test_module_names_are_unique():
    names = [path.stem for path in FOLDER.rglob("*.py") if not path.stem.startswith("__")]
    assert [name for name, count in Counter(names).items() if count > 1] == []


def test_tests_mirror_the_packages():
    folders = {path.name for path in (REPOSITORY / "tests" / "sdpo").iterdir() if (path / "__init__.py").exists()}
    assert folders == set(PACKAGES)


def test_the_tree_of_the_readme_is_complete():
    (tree,) = re.findall(r"```\n(verl/sdpo/.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    packages = {*re.findall(r"^verl/sdpo/(\w+)/", tree, re.MULTILINE)}
    modules = {*re.findall(r"verl/sdpo/(\w+\.py)", tree)}
    assert packages == set(PACKAGES)
    assert modules == {name for name in [*ALGORITHM, "plugin.py"] if name != "__init__.py"}


def test_a_boundary_can_be_crossed():
    source = "import verl.trainer\ndef f():\n    from verl.sdpo.doctor import machine\n"
    assert packages_imported(source) == {"doctor"} and packages_imported(source, with_lazy=False) == set()
    assert [module for module in imports(source) if is_of_verl(module)] == ["verl.trainer"]
    assert circle({"a": {"b"}, "b": {"a"}, "c": {"a"}}) == ["a", "b", "c"] and circle({"a": {"b"}, "b": set()}) == []
