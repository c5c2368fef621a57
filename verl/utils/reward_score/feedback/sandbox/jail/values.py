"""Python values as JSON and back, types kept exactly, so that nothing is ever unpickled.

None, bool, float, str, list and small int stand for themselves; everything else is {"t": tag, "v": content}. What is
not plain data becomes the tag `other` (or what the caller's `fallback` makes of it), with its type's name.
"""

import sys
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

MAX_DEPTH = 200
_MAX_ARRAY = 10_000
# Above this, decimal text would meet Python's limit on digits; hexadecimal has none and takes linear time.
_BIG_INT_BITS = 10_000
_BASES = (bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset)

Fallback = Callable[[Any], Any]


class TooDeep(ValueError):
    """The value is nested deeper than MAX_DEPTH."""


def encode(value: Any, fallback: "Fallback | None" = None, depth: int = 0) -> Any:
    """JSON-able form of `value`. A subclass counts as its base unless it redefines equality."""
    if depth > MAX_DEPTH:
        raise TooDeep(f"the value is nested deeper than {MAX_DEPTH} levels")
    kind = _plain_base(type(value))
    if kind is type(None) or kind is bool:
        return value
    if kind is str:
        return str.__str__(value)
    if kind is float:
        return float.__pos__(value)
    if kind is int:
        return _encode_int(int.__pos__(value))
    if kind is list:
        return [encode(item, fallback, depth + 1) for item in list.__iter__(value)]
    if kind is dict:
        pairs = [[encode(k, fallback, depth + 1), encode(v, fallback, depth + 1)] for k, v in dict.items(value)]
        return {"t": "dict", "v": pairs}
    if kind in (tuple, set, frozenset):
        return {"t": kind.__name__, "v": [encode(item, fallback, depth + 1) for item in kind.__iter__(value)]}
    if kind is complex:
        return {"t": "complex", "v": [value.real, value.imag]}
    if kind is bytes:
        return {"t": "bytes", "v": bytes.hex(value)}
    if type(value) is Fraction and max(abs(value.numerator), value.denominator).bit_length() < _BIG_INT_BITS:
        return {"t": "fraction", "v": [value.numerator, value.denominator]}
    if type(value) is Decimal and not value.is_snan():
        return {"t": "decimal", "v": str(value)}
    return _encode_numpy(value, fallback, depth) or (fallback(value) if fallback else other(value))


def other(value: Any) -> dict[str, Any]:
    """The record of something that is not plain data."""
    return {"t": "other", "v": [type_name(value), None]}


def type_name(value: Any) -> str:
    kind = type(value)
    module = getattr(kind, "__module__", "")
    name = str(getattr(kind, "__qualname__", "object"))[:100]
    return name if module in ("builtins", "__main__", "solution") else f"{str(module)[:100]}.{name}"


def decode(data: Any, special: Callable[[str, Any], Any], depth: int = 0) -> Any:
    """The value that `encode` saw. `special(tag, content)` builds what is not plain data.

    Raises ValueError or TypeError for anything that `encode` cannot have written.
    """
    if depth > MAX_DEPTH:
        raise TooDeep(f"the data is nested deeper than {MAX_DEPTH} levels")
    if isinstance(data, list):
        return [decode(item, special, depth + 1) for item in data]
    if not isinstance(data, dict):
        return data
    if data.keys() != {"t", "v"}:
        raise ValueError("not an encoded value")
    tag, content = data["t"], data["v"]
    if tag == "int":
        return int(content, 16)
    if tag == "bytes":
        return bytes.fromhex(content)
    if tag == "complex":
        return complex(*content)
    if tag == "dict":
        return {decode(k, special, depth + 1): decode(v, special, depth + 1) for k, v in content}
    if tag in ("tuple", "set", "frozenset"):
        kind = {"tuple": tuple, "set": set, "frozenset": frozenset}[tag]
        return kind([decode(item, special, depth + 1) for item in content])
    if tag == "fraction":
        return _fraction(*content)
    if tag == "decimal":
        return _decimal(content)
    return special(tag, content)


def _fraction(above: Any, below: Any) -> Fraction:
    # Bounded, because reducing it takes quadratic time.
    if type(above) is not int or type(below) is not int or below <= 0 or max(abs(above), below) >> _BIG_INT_BITS:
        raise ValueError("not an encoded fraction")
    return Fraction(above, below)


def _decimal(text: Any) -> Decimal:
    if not isinstance(text, str) or len(text) > _BIG_INT_BITS:
        raise ValueError("not an encoded decimal number")
    try:
        value = Decimal(text)
    except ArithmeticError as error:
        raise ValueError("not an encoded decimal number") from error
    # A signalling NaN raises in any comparison.
    if value.is_snan():
        raise ValueError("not a decimal number to compare")
    return value


def _plain_base(kind: type) -> "type | None":
    if kind is type(None):
        return kind
    for base in _BASES:
        if kind is base:
            return base
        if issubclass(kind, base) and type.__getattribute__(kind, "__eq__") is base.__eq__:
            return base
    # Counter redefines equality only to count missing keys as zero.
    return dict if kind.__name__ in ("Counter", "OrderedDict") and kind.__module__ == "collections" else None


def _encode_int(value: int) -> Any:
    return value if value.bit_length() < _BIG_INT_BITS else {"t": "int", "v": hex(value)}


def _encode_numpy(value: Any, fallback: "Fallback | None", depth: int) -> Any:
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    if isinstance(value, numpy.generic):
        item = value.item()
        return None if isinstance(item, numpy.generic) else encode(item, fallback, depth + 1)
    if isinstance(value, numpy.ndarray) and value.size <= _MAX_ARRAY:
        return {"t": "other", "v": ["numpy.ndarray", encode(value.tolist(), None, depth + 1)]}
    return None
