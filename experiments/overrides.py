"""Write overrides in Hydra's grammar, so that any path or name survives it: on the command line of `main_ppo`, and in
everything that composes a configuration.
"""

import re
from collections.abc import Sequence

# What Hydra reads back as the same text without quotes.
PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*")
# ... unless it reads another value than a text.
WORDS = ("true", "false", "null", "nan", "inf")

Value = bool | int | float | str | None | Sequence


def override(key: str, value: Value) -> str:
    """Return `key=value`, which Hydra and OmegaConf read as this very value: an interpolation in a text stays text."""
    return f"{key}={hydra_value(value)}"


def hydra_value(value: Value) -> str:
    """Render a value in Hydra's grammar: null, booleans, numbers, texts, and sequences of them."""
    if value is None:
        return "null"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Sequence):
        return "[" + ",".join(map(hydra_value, value)) + "]"
    return number(value)


def number(value: bool | int | float) -> str:
    """Render a number as people write it: 1e-5, not 1e-05."""
    return repr(value).replace("e-0", "e-")


def _text(text: str) -> str:
    if PLAIN.fullmatch(text) and text.lower() not in WORDS:
        return text
    # OmegaConf's escapes: backslashes count only before an interpolation, which one more makes plain text.
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    # Hydra's: backslashes count only before a quote, the closing one included.
    text = re.sub(r"(\\*)'", r"\1\1\\'", text)
    return "'" + re.sub(r"(\\+)$", r"\1\1", text) + "'"
