"""Write docs/keys.md from the field docstrings of the configuration classes: `python -m tests.keys`."""

import ast
import inspect
import sys
import textwrap
from dataclasses import MISSING, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from verl.sdpo.config import config_classes

PAGE = Path(__file__).parents[1] / "docs" / "keys.md"
BLOCK = "actor_rollout_ref.actor.self_distillation"
HEAD = """# Keys

Generated from the configuration classes by `python -m tests.keys`. Defaults are those of the classes; `sdpo.yaml` and
the recipes may set others. `python -m verl.sdpo.doctor --explain KEY` adds what refuses a key.
"""


def docstrings(kind: type) -> dict[str, str]:
    """Docstring below each field of a dataclass, those of its bases included, on one line."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body  # type: ignore[attr-defined]
        for field, text in pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[field.target.id] = " ".join(str(text.value.value).split())  # type: ignore[union-attr]
    return found


def sections() -> dict[str, list[type]]:
    """Configuration classes under the prefix of their keys."""
    return {BLOCK: config_classes()}


def shown(default: Any) -> str:
    """A default as it is written in yaml, long texts by their length."""
    if default is MISSING:
        return "no default"
    if isinstance(default, str) and ("\n" in default or len(default) > 40):
        return "a template"
    return f"`{'null' if default is None else default}`"


def page() -> str:
    """Text of the page."""
    parts = [HEAD]
    for prefix, kinds in sections().items():
        parts.append(f"\n## `{prefix}`\n")
        seen: set[str] = set()
        for kind in kinds:
            texts = docstrings(kind)
            for field in fields(kind):
                if field.name not in seen:
                    seen.add(field.name)
                    parts.append(f"- `{field.name}`: {shown(field.default)}. {texts[field.name]}\n")
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
    sys.exit()
