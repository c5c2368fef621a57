"""Explain a key: default, owner, meaning, and what refuses it. `python -m verl.sdpo.doctor --explain KEY`"""

import ast
import difflib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING
from types import ModuleType
from typing import NamedTuple

from verl.sdpo.checks import BLOCK
from verl.sdpo.config import CHOICES
from verl.sdpo.preflight.keys import CONFIGS, Key, own_keys
from verl.sdpo.preflight.validation import CHECKS, SDPO_CHECKS

WIDTH = 100
REQUIREMENTS = {"require_bool": "true or false", "require_fraction": "a number in [0, 1]"}


class Rule(NamedTuple):
    """A call in our source that refuses a setting, with "..." for what only a run knows."""

    owner: str
    text: str

    def names(self, key: Key) -> bool:
        """Return True if the rule is about the key, by its full name or by the last part."""
        short = key.name.rsplit(".", 1)[1]
        return re.search(rf"(?<![\w.])({re.escape(key.name)}|{re.escape(short)})(?!\w)", self.text) is not None


def explain(name: str) -> str:
    """Return the explanation of a key of ours, by its full name or the end of it.

    Raises:
        ValueError: there is no such key; names similar ones.
    """
    keys = own_keys()
    found = [key for key in keys.values() if key.name == name or key.name.endswith(f".{name}")]
    if not found:
        raise ValueError(f"--explain {name}: SDPO adds no such key.{_similar(name, list(keys))}")
    rules = list(_rules())
    return "\n\n".join(_describe(key, [rule for rule in rules if rule.names(key)]) for key in found)


def _similar(name: str, keys: list[str]) -> str:
    short = {key.rsplit(".", 1)[1]: key for key in keys}
    near = difflib.get_close_matches(name.rsplit(".", 1)[-1], short, n=3, cutoff=0.5)
    return f" Similar: {', '.join(short[each] for each in near)}." if near else f" It has {', '.join(short)}."


def _describe(key: Key, rules: list[Rule]) -> str:
    owners = ", ".join(f"{owner.__module__}.{owner.__qualname__}" for owner in key.owners)
    default = "none, it must be given" if key.default is MISSING else repr(key.default)
    refusals = [f"- {rule.owner}: {rule.text}" for rule in dict.fromkeys(rules)] or ["- nothing"]
    parts = [key.name, f"default: {default}", f"owner:   {owners}", f"meaning: {key.meaning}", "refused by:", *refusals]
    return "\n".join(
        textwrap.fill(part, WIDTH, subsequent_indent="         ", break_long_words=False) for part in parts
    )


def _rules() -> Iterator[Rule]:
    """Yield the rules of every module that has a check or a configuration class."""
    for key, classes in CHOICES.items():
        yield Rule("config.Choices", f"{BLOCK}.{key}: expected one of {', '.join(classes)}")
    modules = [sys.modules[check.__module__] for check in (*CHECKS, *SDPO_CHECKS)]
    modules += [sys.modules[base.__module__] for _, kind in CONFIGS for base in kind.__mro__[:-1]]
    for module in dict.fromkeys(modules):
        if module.__name__.startswith("verl.sdpo."):
            yield from _rules_in(module)


def _rules_in(module: ModuleType) -> Iterator[Rule]:
    """Yield the rules of a module, each with the loops' literals around it, in the order of the source."""
    pending: list[tuple[ast.AST, str, tuple[str, ...]]] = [
        (ast.parse(inspect.getsource(module)), module.__name__.removeprefix("verl.sdpo."), ())
    ]
    while pending:
        node, owner, rows = pending.pop(0)
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            owner = f"{owner}.{node.name}"
        if isinstance(node, ast.For) and isinstance(node.iter, ast.Tuple | ast.List):
            rows = (*rows, *(_text(row, module) for row in node.iter.elts))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            text = _sentence(node.func.id, node.args, module)
            if text:
                yield Rule(owner, "; ".join([text, *rows]))
        pending.extend((child, owner, rows) for child in ast.iter_child_nodes(node))


def _sentence(function: str, args: list[ast.expr], module: ModuleType) -> str:
    """Return the words of a refusing call, "" for any other call."""
    if function in ("refusal", "ValueError"):
        return ". ".join(_text(arg, module) for arg in args)
    if function.startswith("require") and len(args) > 1:
        expected = REQUIREMENTS.get(function) or _text(args[-1], module)
        return f"{BLOCK}.{_text(args[0], module)}: expected {'one of ' * (function == 'require_choice')}{expected}"
    return ""


def _text(node: ast.AST, module: ModuleType) -> str:
    """Return an expression as a reader sees it: texts without quotes, constants by their value."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, module) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return _text(node.value, module)
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return ", ".join(f"{_text(key, module)}={_text(value, module)}" for key, value in pairs if key)
    if isinstance(node, ast.Tuple):
        return ": ".join(_text(part, module) for part in node.elts)
    if isinstance(node, ast.Name) and node.id.isupper():
        value = getattr(module, node.id, None)
        return ", ".join(value) if isinstance(value, dict | tuple) else str(value)
    return "..."
