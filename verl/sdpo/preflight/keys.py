"""Every key that SDPO adds to verl's configuration: default, meaning, and the frozen class that reads it."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

from verl.sdpo.checks import BLOCK
from verl.sdpo.config import config_classes
from verl.sdpo.engine.actor_config import SelfDistillationActorConfig
from verl.sdpo.runs.guard_rules import GuardConfig
from verl.sdpo.test_time.question_search import TestTimeConfig

# Where its keys stand in the yaml -> the class.
CONFIGS: tuple[tuple[str, type], ...] = (
    *((BLOCK, kind) for kind in config_classes()),
    ("actor_rollout_ref.actor", SelfDistillationActorConfig),
    ("insight", GuardConfig),
    ("test_time", TestTimeConfig),
)


@dataclass(frozen=True)
class Key:
    """A key of the yaml, by its full name."""

    name: str
    default: Any
    """Default of the class, which yaml files may override; `dataclasses.MISSING` if there is none."""
    meaning: str
    """Docstring of the field, on one line."""
    owners: tuple[type, ...]
    """Classes that read the key. Several objectives share some."""


def own_keys() -> dict[str, Key]:
    """Return every key of SDPO by its full name, in the order of `CONFIGS`."""
    found: dict[str, Key] = {}
    for path, kind in CONFIGS:
        for name, field, meaning in documented_fields(kind):
            full = f"{path}.{name}"
            owners = (*found[full].owners, kind) if full in found else (kind,)
            found[full] = Key(full, field.default, meaning, owners)
    return found


def documented_fields(kind: type) -> Iterator[tuple[str, Any, str]]:
    """Yield name, dataclass field and docstring of each field that has one and is not of verl."""
    meanings: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        if base.__module__.startswith("verl.sdpo."):
            meanings.update(field_docstrings(base))
    for field in fields(kind):
        if field.name in meanings:
            yield field.name, field, meanings[field.name]


def field_docstrings(kind: type) -> dict[str, str]:
    """Return the docstring below each field in the source of a class, on one line."""
    (body,) = (node.body for node in ast.parse(textwrap.dedent(inspect.getsource(kind))).body)  # type: ignore[attr-defined]
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
        if isinstance(text.value.value, str)
    }
