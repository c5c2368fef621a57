"""Refuse values of a configuration, in one form: keys with their values, the reason, and the fix."""

from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any

BLOCK = "actor_rollout_ref.actor.self_distillation"


def refusal(settings: Mapping[str, Any], reason: str, fix: str = "") -> ValueError:
    """Return the error for a setting, or a combination of settings, that cannot work: `raise refusal(...)`.

    It reads "key=value with another.key=value: reason. Fix". `python -m verl.sdpo.doctor --explain KEY` finds these
    calls in the source, so write keys, reason and fix as literals or f-strings in the call.

    Args:
        settings: each key by its full name, with its value. A value whose type matters is given as its `repr`.
        reason: why it cannot work, without a full stop.
        fix: what to set instead, as one or more whole sentences.
    """
    first, *others = (f"{key}={'null' if value is None else value}" for key, value in settings.items())
    where = f"{first} with {', '.join(others)}" if others else first
    return ValueError(f"{where}: {reason}. {fix}".rstrip())


def require(name: str, value: Any, is_valid: Callable[[Any], bool], expected: str) -> None:
    """Refuse a key of the block `self_distillation` unless its value is valid.

    Raises:
        ValueError: naming the key, its value and what was expected.
    """
    if not is_valid(value):
        raise refusal({f"{BLOCK}.{name}": repr(value)}, f"expected {expected}")


def require_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Refuse a key of the block unless its value is one of the choices."""
    choices = tuple(choices)
    require(name, value, lambda v: v in choices, "one of " + ", ".join(choices))


def require_bool(name: str, value: Any) -> None:
    """Refuse a key of the block unless it is true or false."""
    require(name, value, lambda v: isinstance(v, bool), "true or false")


def require_fraction(name: str, value: Any) -> None:
    """Refuse a key of the block unless it is a number in [0, 1]."""
    require(name, value, lambda v: is_number(v) and 0 <= v <= 1, "a number in [0, 1]")


def is_number(value: Any) -> bool:
    """Return True for a real number; Python counts booleans among them, this does not."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_positive_int(value: Any) -> bool:
    """Return True for an integer of at least 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def describe(error: BaseException) -> str:
    """Return an exception as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
