"""LiveCodeBench (arXiv 2403.07974), release v6: public and private tests, kept apart."""

import base64
import binascii
import io
import json
import pickle
import pickletools
import re
import zlib
from typing import Any

from data.records import DataError
from data.sources.catalog import Entry
from data.sources.prompts import code_prompt, describe, tests_json

# The time limit of LiveCodeBench's own runner.
TIME_LIMIT = 6

_STRINGS = "SHORT_BINUNICODE BINUNICODE BINUNICODE8 UNICODE"
_NUMBERS = "NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT"
_CONTAINERS = "MARK EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS"
_BOOKKEEPING = "PROTO FRAME MEMOIZE PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET STOP"
SAFE_OPCODES = frozenset(f"{_STRINGS} {_NUMBERS} {_CONTAINERS} {_BOOKKEEPING}".split())


def to_record(row: dict, entry: Entry) -> dict:
    """Turn a row of the hub into a record.

    `row`: question_content, starter_code, public_test_cases, private_test_cases, metadata, all of them text.
    """
    problem = row["question_content"]
    if row["starter_code"].strip():
        problem += (
            f"\n\nYour solution should have the following signature:\n```python\n{signature(row['starter_code'])}\n```"
        )
    fn_name = json.loads(row["metadata"]).get("func_name") or ""
    return {
        "prompt": code_prompt(problem, TIME_LIMIT),
        "description": describe(row["question_content"]),
        "tests": _tests(decode_tests(row["private_test_cases"]), fn_name),
        "public_tests": _tests(decode_tests(row["public_test_cases"]), fn_name),
    }


def signature(starter_code: str) -> str:
    """Return the starter's bare function: no class line, no `self`."""
    header = starter_code[starter_code.index("def ") :].split("Input\n")[0].rstrip()
    return re.sub(r"\(\s*self\s*(,\s*)?", "(", header)


def decode_tests(text: str) -> list[dict]:
    """Return the test cases in `text`: a JSON list, or base64(zlib(pickle(JSON list))), which is not executed."""
    if text.lstrip().startswith("["):
        return json.loads(text)
    try:
        return json.loads(safe_unpickle(zlib.decompress(base64.b64decode(text))))
    except (binascii.Error, zlib.error, pickle.UnpicklingError, TypeError, ValueError) as error:
        raise DataError(f"test cases that cannot be decoded safely: {error}") from error


def safe_unpickle(data: bytes) -> Any:
    """Unpickle strings, lists, dicts and numbers; raises `pickle.UnpicklingError` before anything else takes effect."""
    try:
        for count, (opcode, argument, position) in enumerate(pickletools.genops(data)):
            if opcode.name not in SAFE_OPCODES:
                raise pickle.UnpicklingError(f"opcode {opcode.name} at byte {position} is not plain data")
            # The memo is an array as long as its largest index; an honest one has an entry per object.
            if opcode.name in ("PUT", "LONG_BINPUT") and (argument or 0) > count:
                raise pickle.UnpicklingError(f"memo index {argument} at byte {position}")
        return _PlainUnpickler(io.BytesIO(data)).load()
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # malformed bytes make the unpickler raise nearly anything
        raise pickle.UnpicklingError(f"malformed pickle: {error!r}") from error


class _PlainUnpickler(pickle.Unpickler):
    """Unpickler that looks nothing up by name, in case the list of opcodes lets something through."""

    def find_class(self, module: str, name: str) -> None:
        raise pickle.UnpicklingError(f"{module}.{name} is not plain data")


def _tests(cases: list[dict], fn_name: str) -> str:
    types = {case["testtype"] for case in cases}
    if len(types) != 1:
        raise DataError(f"expected test cases of one type, got {sorted(types) or 'no test case'}.")
    inputs, outputs = [case["input"] for case in cases], [case["output"] for case in cases]
    return tests_json(inputs, outputs, types.pop(), time_limit=TIME_LIMIT, fn_name=fn_name)
