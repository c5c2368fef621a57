"""Run one program in the child that was forked for it, and record how that ended on descriptor 3.

Everything here shares its process with the program, which may rewrite any of it. That harms only the program's own
record: what it is worth is decided elsewhere.
"""

import _sitebuiltins
import atexit
import builtins
import contextlib
import io
import json
import os
import sys
import threading
import types
from collections.abc import Callable
from typing import Any, NoReturn

from . import values

FILENAME = "solution.py"
RESULT = 3
_MAX_TEXT = 2000
_MAX_FRAMES = 20
INT_DIGITS = RECURSION = 50_000

_dumps, _exit, _pwrite, _ftruncate = json.dumps, os._exit, os.pwrite, os.ftruncate

_STAR_IMPORTS = """
string re datetime collections heapq bisect copy math random statistics itertools functools operator io sys json
builtins typing
"""
# LiveCodeBench's prompt promises these names; `builtins` late in the list restores pow, open, sum and so on.
PREAMBLE = "".join(f"from {name} import *\n" for name in _STAR_IMPORTS.split()) + "".join(
    f"import {name}\n" for name in _STAR_IMPORTS.split() if name not in ("builtins", "typing")
)


def prepare() -> None:
    """Set up the interpreter and the names that every program finds; the fork server does it once.

    The names go where Python looks last, so that a program's own namespace holds only what it defined.
    """
    sys.setrecursionlimit(RECURSION)
    if hasattr(sys, "set_int_max_str_digits"):
        sys.set_int_max_str_digits(INT_DIGITS)
    # `site` would define them, but importing it costs every server 30 ms.
    builtins.exit = _sitebuiltins.Quitter("exit", "Ctrl-D")
    builtins.quit = _sitebuiltins.Quitter("quit", "Ctrl-D")
    names: dict[str, Any] = {}
    exec(PREAMBLE, names)
    for name, value in names.items():
        builtins.__dict__.setdefault(name, value)


def open_standard_streams() -> None:
    """Open sys.stdin, stdout and stderr as the interpreter does, with the names and modes that fast readers ask for."""
    # surrogatepass: printing a lone surrogate is a wrong answer, not an exception.
    sys.stdin = sys.__stdin__ = _stream(0, "<stdin>", "r", errors="surrogatepass")  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = _stream(1, "<stdout>", "w", errors="surrogatepass")  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _stream(2, "<stderr>", "w", errors="backslashreplace", line_buffering=True)  # type: ignore[misc]


def _stream(descriptor: int, name: str, mode: str, **options: Any) -> io.TextIOWrapper:
    raw: Any = io.FileIO(descriptor, mode, closefd=False)
    raw.name = name
    buffer = io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw)
    stream: Any = io.TextIOWrapper(buffer, "utf-8", **options)
    stream.mode = mode
    return stream


def run_script(source: str) -> NoReturn:
    """Run the program as `python solution.py` would."""
    namespace = new_module("__main__")
    guarded(lambda: exec(compile_program(source), namespace))


def run_function(source: str, fn_name: str) -> NoReturn:
    """Call the program's `fn_name` with the arguments on stdin and record what it returns."""
    arguments = json.loads(read_input())

    def call() -> None:
        namespace = new_module("solution")
        exec(compile_program(source), namespace)
        target = find_target(namespace, fn_name)
        value = target(**arguments) if isinstance(arguments, dict) else target(*arguments)
        record({"value": encode_result(value)})

    guarded(call)


def find_target(namespace: dict[str, Any], fn_name: str) -> Any:
    """Return the method of `class Solution`, else the top-level function. Raises NameError when there is neither."""
    solution = namespace.get("Solution")
    if isinstance(solution, type) and hasattr(solution, fn_name):
        return getattr(solution(), fn_name)
    if fn_name not in namespace:
        raise NameError(f"name {fn_name!r} is not defined")
    return namespace[fn_name]


def encode_result(value: Any) -> Any:
    try:
        return values.encode(value)
    except values.TooDeep:
        return values.named(f"{values.type_name(value)} nested too deeply")


def compile_program(source: str) -> types.CodeType:
    try:
        return compile(source, FILENAME, "exec", dont_inherit=True)
    except BaseException as error:
        raise CompileFailed(error) from None


class CompileFailed(BaseException):
    """A carrier of what `compile` raised past `except Exception`."""

    def __init__(self, cause: BaseException):
        super().__init__(cause)
        self.cause = cause


def new_module(name: str) -> dict[str, Any]:
    """Return the namespace of a fresh module; code that runs as it finds itself in sys.modules."""
    module = types.ModuleType(name)
    module.__dict__.update(__file__=FILENAME, __builtins__=builtins)
    sys.modules[name] = module
    return module.__dict__


def guarded(action: Callable[[], None]) -> NoReturn:
    """Run `action`, record what it raises, and end the process as the interpreter would."""
    status = 0
    try:
        action()
    except CompileFailed as failure:
        record(describe(failure.cause) | {"stage": "compile"})
        status = 1
    except SystemExit as error:
        status = exit_status(error)
        if status:
            record(describe(error))
    except BaseException as error:
        record(describe(error))
        status = 1
    finish(status)


def exit_status(error: SystemExit) -> int:
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    return 1


def finish(status: int) -> NoReturn:
    """Do what the interpreter's shutdown does for a program, without tearing down what the fork server shares."""
    real: Any = sys.__stdout__
    for step in (threading._shutdown, atexit._run_exitfuncs, sys.stdout.flush, real.flush):  # type: ignore[attr-defined]
        with contextlib.suppress(BaseException):
            step()
    with contextlib.suppress(BaseException):
        sys.stderr.flush()
    _exit(status)


def describe(error: BaseException) -> dict[str, Any]:
    """Return an exception as JSON-able data: `exception`, `message`, `frames` of the program, outermost first."""
    return {
        "exception": type(error).__name__[:200],
        "message": _message(error)[:_MAX_TEXT],
        "frames": _frames(error),
    }


def _message(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return str(error.msg)
    try:
        return str(error)
    except BaseException:
        return "(the exception has no readable text)"


def _frames(error: BaseException) -> list[list[Any]]:
    frames = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if code.co_filename == FILENAME:
            frames.append([trace.tb_lineno or 0, code.co_name[:200]])
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.filename == FILENAME:
        frames.append([error.lineno or 0, "<module>"])
    if len(frames) > _MAX_FRAMES:
        frames = frames[: _MAX_FRAMES // 2] + frames[-_MAX_FRAMES // 2 :]
    return frames


def record(data: dict[str, Any]) -> None:
    text = _dumps(data).encode()
    _ftruncate(RESULT, 0)
    offset = 0
    while offset < len(text):
        offset += _pwrite(RESULT, text[offset:], offset)


def read_input() -> str:
    """Return all of stdin, of which the program then finds nothing left."""
    text = read_all(0)
    os.lseek(0, 0, os.SEEK_END)
    return text


def read_all(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    parts, offset = [], 0
    while offset < size:
        part = os.pread(descriptor, size - offset, offset)
        parts.append(part)
        offset += len(part)
    return b"".join(parts).decode("utf-8", "surrogatepass")
