"""Read out of our source what it takes from verl and TransferQueue, and look it up in the installed ones.

`VERL_PLATFORM=cpu python -m tests.verl_symbols tests/verl_symbols.yaml` writes the list anew. A process of its own,
because verl's vLLM rollout can be imported on a machine without an accelerator on that platform only.
"""

import ast
import importlib
import importlib.util
import inspect
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[1]
PRODUCT = ("verl", "experiments", "benchmarks", "baseline_multiturn", "data")
STOCK = ("verl", "transfer_queue")
OURS = ("verl.sdpo", "verl.utils.reward_score.feedback")


def is_stock(module: str | None) -> bool:
    """Return True if a module belongs to verl or TransferQueue and not to us."""
    own = tuple(f"{name}." for name in OURS)
    return module is not None and module.split(".")[0] in STOCK and not f"{module}.".startswith(own)


def is_module(dotted: str) -> bool:
    try:
        return importlib.util.find_spec(dotted) is not None
    except ModuleNotFoundError:
        return False


def sources() -> Iterator[ast.Module]:
    for folder in PRODUCT:
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            yield ast.parse(path.read_text(encoding="utf-8"))


def attributes_of(tree: ast.AST, name: str) -> set[str]:
    """Return `x` of every `name.x` in the tree; `name` may be dotted."""
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node.value) == name}


def imported() -> dict[str, set[str]]:
    """Return, by module or class of verl, the names that we import from it or use of it."""
    found: dict[str, set[str]] = defaultdict(set)
    for tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if is_stock(alias.name):
                        found[alias.name] |= attributes_of(tree, alias.asname or alias.name)
            elif isinstance(node, ast.ImportFrom) and is_stock(node.module):
                for alias in node.names:
                    dotted = f"{node.module}.{alias.name}"
                    if not is_stock(dotted):
                        continue
                    if not is_module(dotted):
                        found[str(node.module)].add(alias.name)
                    found[dotted] |= attributes_of(tree, alias.asname or alias.name)
    return found


def hooked() -> dict[str, set[str]]:
    """Return the same for what functions use or replace of the module whose import they wait for (`wrapt`'s hooks)."""
    found: dict[str, set[str]] = defaultdict(set)
    for tree in sources():
        functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "wrapt.register_post_import_hook":
                hook, module = functions[ast.unparse(node.args[0])], ast.literal_eval(node.args[1])
                if is_stock(module):
                    name = hook.args.args[0].arg
                    found[module] |= attributes_of(hook, name)
                    for attribute in attributes_of(hook, name):
                        found[f"{module}.{attribute}"] |= attributes_of(hook, f"{name}.{attribute}")
    return found


def patched() -> dict[str, set[str]]:
    """Return, by module or class of any package, the attributes that we assign to what we import."""
    found: dict[str, set[str]] = defaultdict(set)
    for tree in sources():
        origins = {
            alias.asname or alias.name: f"{node.module}.{alias.name}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith(OURS)
            for alias in node.names
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                origin = origins.get(ast.unparse(node.value))
                if origin:
                    found[origin].add(node.attr)
    return found


def inherited() -> dict[str, set[str]]:
    """Return, by class of verl, the names that our subclasses, and mixins beside it, define or use of themselves."""
    classes: dict[str, ast.ClassDef] = {}
    stock: dict[str, str] = {}
    for tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                classes[node.name] = node
            elif isinstance(node, ast.ImportFrom) and is_stock(node.module):
                stock |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}

    def family(name: str) -> set[str]:
        bases = classes[name].bases if name in classes else ()
        return {name}.union(*(family(ast.unparse(base)) for base in bases))

    found: dict[str, set[str]] = defaultdict(set)
    for members in map(family, classes):
        for base in members & stock.keys() - classes.keys():
            for name in members & classes.keys():
                found[stock[base]] |= names_of(classes[name])
    return found


def names_of(subclass: ast.ClassDef) -> set[str]:
    """Return the methods that a class defines, and what it uses of itself and of its bases."""
    methods = {node.name for node in subclass.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    of_bases = {
        node.attr
        for node in ast.walk(subclass)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "super()"
    }
    return methods | attributes_of(subclass, "self") | of_bases


def parameters(thing: object) -> str:
    """Return the parameters of a function, nothing of anything else (the `__init__` of a class has its own name)."""
    return ", ".join(inspect.signature(thing).parameters) if inspect.isroutine(thing) else ""


def look_up(dotted: str) -> Any:
    """Return a module, or what it holds."""
    if is_module(dotted):
        return importlib.import_module(dotted)
    holder, _, name = dotted.rpartition(".")
    return getattr(look_up(holder), name)


def members_of(holder: Any, names: set[str]) -> dict[str, str]:
    """Return those of `names` that a module or class has, with their parameters."""
    found = {name: parameters(getattr(holder, name)) for name in names if hasattr(holder, name)}
    if isinstance(holder, type):
        # What a class gives its instances.
        source = "".join(inspect.getsource(base) for base in holder.__mro__ if is_stock(base.__module__))
        for name in names - found.keys():
            if re.search(rf"^ +(self\.)?{name}(:.*)?( = |$)", source, re.MULTILINE):
                found[name] = ""
    return dict(sorted(found.items()))


def taken() -> dict[str, dict[str, str]]:
    """Return, by module or class of verl, what our source takes from it, with the parameters of functions.

    Raises:
        AttributeError: verl has no such name.
    """
    wanted: dict[str, set[str]] = defaultdict(set)
    for names_by_place in (imported(), hooked(), patched()):
        for where, names in names_by_place.items():
            wanted[where] |= names
    found = {}
    for where, names in wanted.items():
        found[where] = members_of(look_up(where), names)
        missing = names - found[where].keys()
        if missing:
            raise AttributeError(f"{where} of verl has no {', '.join(sorted(missing))}, which our source uses")
    for stock_class, names in inherited().items():
        # The other names are our own.
        found[stock_class] = members_of(look_up(stock_class), names | found.get(stock_class, {}).keys())
    return {where: found[where] for where in sorted(found) if found[where]}


def listed() -> dict[str, dict[str, dict[str, str]]]:
    return yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


HEADER = """\
# What we take from verl 0.9.1, TransferQueue and vLLM, with the parameters of functions: a version that lacks one of
# these, or has it otherwise, breaks us. `taken` is read out of our source by verl_symbols.py, which writes this file:
#     VERL_PLATFORM=cpu python -m tests.verl_symbols tests/verl_symbols.yaml
# Look at its diff: each new line is a tie to verl's inside. `of_objects` are members of objects that verl hands us,
# which no reading finds; their names are kept by hand.
"""


def named() -> dict[str, dict[str, str]]:
    """Return the names of the list's second part that the installed verl has."""
    return {where: members_of(look_up(where), set(names)) for where, names in listed()["of_objects"].items()}


if __name__ == "__main__":
    text = yaml.safe_dump({"taken": taken(), "of_objects": named()}, sort_keys=False, width=120)
    # Not to the standard output, where vLLM logs.
    Path(sys.argv[1]).write_text(HEADER + text, encoding="utf-8")
