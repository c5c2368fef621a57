"""Checks of single values of the yaml block, shared by the configurations of its parts."""

from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any

BLOCK = "actor_rollout_ref.actor.self_distillation"


def require(name: str, value: Any, is_valid: Callable[[Any], bool], expected: str) -> None:
    """
    Raises:
        ValueError: naming the key, its value and what was expected, when the value is not valid.
    """
    if not is_valid(value):
        raise ValueError(f"{BLOCK}.{name}={value!r}: expected {expected}.")


def require_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    choices = tuple(choices)
    require(name, value, lambda v: v in choices, "one of " + ", ".join(choices))


def require_bool(name: str, value: Any) -> None:
    require(name, value, lambda v: isinstance(v, bool), "true or false")


def require_fraction(name: str, value: Any) -> None:
    require(name, value, lambda v: is_number(v) and 0 <= v <= 1, "a number in [0, 1]")


def is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def is_positive_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def describe(error: BaseException) -> str:
    """An exception in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
