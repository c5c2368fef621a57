"""Write docs/keys.md from the field docstrings of the configuration classes: `python -m tests.keys`."""

from dataclasses import MISSING
from pathlib import Path
from typing import Any

from verl.sdpo.preflight.keys import own_keys

PAGE = Path(__file__).parents[1] / "docs" / "keys.md"
HEAD = """# Keys

Every key that SDPO adds to verl's configuration, generated from its classes by `python -m tests.keys`. Defaults are
those of the classes; `sdpo.yaml` and the recipes may set others. `python -m verl.sdpo.doctor --explain KEY` adds what
refuses a key.
"""


def shown(default: Any) -> str:
    """Return a default as it is written in yaml; "a template" for long texts."""
    if default is MISSING:
        return "no default"
    if isinstance(default, str) and ("\n" in default or len(default) > 40):
        return "a template"
    return f"`{'null' if default is None else default}`"


def page() -> str:
    """Return the text of the page, a section for each block of the yaml."""
    sections: dict[str, list[str]] = {}
    for key in own_keys().values():
        block, _, name = key.name.rpartition(".")
        sections.setdefault(block, []).append(f"- `{name}`: {shown(key.default)}. {key.meaning}\n")
    return HEAD + "".join(f"\n## `{block}`\n{''.join(lines)}" for block, lines in sections.items())


if __name__ == "__main__":
    PAGE.write_text(page())
