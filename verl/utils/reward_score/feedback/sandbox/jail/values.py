"""Python values as JSON and back, types kept exactly, so that nothing is ever unpickled.

None, bool, float, str, list and small int stand for themselves; everything else is {"t": tag, "v": content}. What is
not plain data becomes the tag `other` (or what the caller's `fallback` makes of it), with its type's name.
"""

import sys
from collections import Counter
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
    """Return the JSON-able form of `value`. A subclass counts as its base unless it redefines equality."""
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
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic) and not isinstance(item := value.item(), numpy.generic):
        return encode(item, fallback, depth + 1)
    if numpy is not None and isinstance(value, numpy.ndarray) and value.size <= _MAX_ARRAY:
        return {"t": "other", "v": ["numpy.ndarray", encode(value.tolist(), None, depth + 1)]}
    return fallback(value) if fallback else other(value)


def other(value: Any) -> dict[str, Any]:
    """Return the record of something that is not plain data."""
    return named(type_name(value))


def named(name: str) -> dict[str, Any]:
    """Return the record of something of which only a name is known."""
    return {"t": "other", "v": [name, None]}


def type_name(value: Any) -> str:
    kind = type(value)
    module = getattr(kind, "__module__", "")
    name = str(getattr(kind, "__qualname__", "object"))[:100]
    return name if module in ("builtins", "__main__", "solution") else f"{str(module)[:100]}.{name}"


class Collisions:
    """A bound on the equal hashes among the keys of one decoded value.

    A hash table compares every pair of keys whose hashes are equal, and integers of equal hash are easily had: 30,000
    of them cost the process that builds a set of them 16 s. Raises ValueError when more than MAX_PAIRS were met.
    """

    MAX_PAIRS = 1000

    def __init__(self) -> None:
        self._left = self.MAX_PAIRS

    def add(self, keys: list[Any]) -> None:
        """Count the pairs of equal hashes among the keys of one set or dict."""
        # Text is hashed with a secret of the process.
        counts = Counter(hash(key) for key in keys if type(key) is not str)
        self._left -= sum(count * (count - 1) // 2 for count in counts.values())
        if self._left < 0:
            raise ValueError(f"more than {self.MAX_PAIRS} pairs of keys have equal hashes")


def decode(
    data: Any, special: Callable[[str, Any], Any], depth: int = 0, *, collisions: "Collisions | None" = None
) -> Any:
    """Return the value that `encode` saw. `special(tag, content)` builds what is not plain data.

    Takes no more memory than a small multiple of `data`. `collisions` also bounds the time that sets and dicts take; a
    process that has a time limit of its own needs no such bound.

    Raises ValueError, TypeError or ArithmeticError for anything that `encode` cannot have written.
    """
    if depth > MAX_DEPTH:
        raise TooDeep(f"the data is nested deeper than {MAX_DEPTH} levels")
    if isinstance(data, list):
        return [
            decode(item, special, depth + 1, collisions=collisions) if isinstance(item, list | dict) else item
            for item in data
        ]
    if not isinstance(data, dict):
        return data
    if data.keys() != {"t", "v"}:
        raise ValueError("not an encoded value")
    tag, content = data["t"], data["v"]
    if tag == "int":
        return int(content, 16)
    if tag == "bytes":
        return bytes.fromhex(content)
    if tag == "decimal":
        return _decimal(content)
    if tag not in _LISTED:
        return special(tag, content)
    # A text would give one element for each of its characters.
    if not isinstance(content, list):
        raise ValueError(f"the content of {tag} is not a list")
    if tag == "complex":
        return _complex(*content)
    if tag == "fraction":
        return _fraction(*content)
    if tag == "dict":
        content = [item for pair in content for item in _two(*pair)]
    items = decode(content, special, depth, collisions=collisions)
    if tag == "tuple":
        return tuple(items)
    if collisions is not None:
        collisions.add(items[::2] if tag == "dict" else items)
    if tag == "dict":
        return dict(zip(items[::2], items[1::2], strict=True))
    return set(items) if tag == "set" else frozenset(items)


_LISTED = ("complex", "fraction", "dict", "tuple", "set", "frozenset")


def _two(key: Any, value: Any) -> tuple[Any, Any]:
    return key, value


def _complex(real: Any, imaginary: Any) -> complex:
    if type(real) is not float or type(imaginary) is not float:
        raise ValueError("not an encoded complex number")
    return complex(real, imaginary)


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
