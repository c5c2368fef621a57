"""LiveCodeBench's own way of running a program, peculiarities included, for scores that compare with its table.

All tests share one process. A script becomes the body of a function whose stdin is a mock; `signal.alarm` limits wall
time. Comparing is left out: the record holds what each test printed or returned. Behaviour after LiveCodeBench/
LiveCodeBench@28fef95, lcb_runner/evaluation/testing_util.py; the one thing not repeated is its mock of `builtins.open`,
which programs never see because its preamble imports the real one.
"""

import ast
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from typing import Any, NoReturn

from . import harness

_IMPORTS = harness.PREAMBLE + f"sys.setrecursionlimit({harness.RECURSION})\n"
_MAIN_GUARD = "__name__ == '__main__'"

_DISABLED_OS = """
kill system putenv remove removedirs rmdir fchdir setuid fork forkpty killpg rename renames truncate replace unlink
fchmod fchown chmod chown chroot lchflags lchmod lchown getcwd chdir
"""
_DISABLED_MODULES = ["ipdb", "joblib", "resource", "psutil", "tkinter"]


class TimeoutException(Exception):
    """The official runner looks for this name in an exception's repr."""


def run(source: str, inputs: list[str], fn_name: "str | None", seconds: int) -> NoReturn:
    """Run all tests until one raises, and record {"tests": [{"stdout" or "value"} or {"exception", ...}]}."""
    done: list[dict[str, Any]] = []
    _disable()
    signal.signal(signal.SIGALRM, _on_alarm)

    def run_tests() -> None:
        try:
            run_one: Callable[[Any], dict[str, Any]]
            run_one = _call_based(source, fn_name, seconds) if fn_name else _script(source, seconds)
            calls: list[Any] = [_arguments(text) for text in inputs] if fn_name else inputs
        except Exception as error:
            # However loading fails, a timeout included, the official verdict is "error during testing".
            done.append(harness.describe(error))
            return
        for item in calls:
            try:
                signal.alarm(seconds)
                done.append(run_one(item))
                signal.alarm(0)
            except Exception as error:
                signal.alarm(0)
                timed_out = "timeoutexception" in repr(error).lower()
                done.append(harness.describe(error) | {"timed_out": timed_out})
                return

    try:
        run_tests()
    except BaseException as error:
        # What the official runner does not catch ends its process, and with it every result.
        done[:] = [harness.describe(error)]
    finally:
        signal.alarm(0)
        harness.record({"tests": done})
        harness.finish(0)


def _script(source: str, seconds: int) -> Callable[[str], dict[str, Any]]:
    function = _load(_as_function(_without_main_guard(source)), seconds).__dict__["wrapped_function"]

    def run_one(text: str) -> dict[str, Any]:
        captured, real = io.StringIO(), sys.stdout
        captured.close = lambda *_: None  # type: ignore[method-assign]
        sys.stdout = captured
        try:
            _with_stdin(function, text)
        finally:
            sys.stdout = real
        return {"stdout": captured.getvalue()}

    return run_one


def _call_based(source: str, fn_name: str, seconds: int) -> Callable[[list[Any]], dict[str, Any]]:
    target = _load(f"{_IMPORTS}\n\n{source}", seconds, instantiate="class Solution" in source)
    method = getattr(target, fn_name)
    return lambda arguments: {"value": harness.encode_result(method(*arguments))}


def _arguments(text: str) -> list[Any]:
    return [json.loads(line) for line in text.split("\n")]


def _load(code: str, seconds: int, *, instantiate: bool = False) -> Any:
    module = types.ModuleType("tmp_sol", "")
    signal.alarm(seconds)
    try:
        exec(compile(code, harness.FILENAME, "exec", dont_inherit=True), module.__dict__)
        return module.__dict__["Solution"]() if instantiate else module
    finally:
        signal.alarm(0)


def _without_main_guard(source: str) -> str:
    try:
        body = ast.parse(source).body
        last = body[-1]
        if isinstance(last, ast.If) and ast.unparse(last.test).strip() == _MAIN_GUARD:
            return "\n".join(map(ast.unparse, [*body[:-1], *last.body]))
    except Exception:
        pass
    return source


def _as_function(source: str) -> str:
    try:
        body = ast.parse(source).body
        imports = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
        function = ast.parse("def wrapped_function(): pass").body[0]
        assert isinstance(function, ast.FunctionDef)
        function.body = [node for node in body if node not in imports]
        return "\n".join([_IMPORTS, *map(ast.unparse, imports), ast.unparse(function)])
    except Exception:
        return source


class _Buffer:
    def __init__(self, text: str):
        self._text = text.encode()

    def read(self, *_: Any) -> bytes:
        return self._text

    def readline(self, *_: Any) -> bytes:
        return self._text.split(b"\n")[0] + b"\n"


class _Stdin:
    """A stdin without `__iter__`: `for line in sys.stdin` fails, as it does officially."""

    def __init__(self, text: str):
        self._text = text
        self._file = io.StringIO(text)
        self.buffer = _Buffer(text)

    def read(self, *_: Any) -> str:
        return self._text

    def readline(self, *arguments: Any) -> str:
        return self._file.readline(*arguments)

    def readlines(self, *_: Any) -> list[str]:
        return self._text.split("\n")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _with_stdin(function: Callable[[], Any], text: str) -> None:
    """Mock sys.stdin. The real object is patched as well: programs hold it through `from sys import stdin`."""
    lines = iter(text.split("\n"))
    real: Any = sys.stdin
    real.read = lambda *_: text
    real.readlines = lambda *_: text.split("\n")
    real.readline = lambda *_: next(lines)
    sys.stdin = _Stdin(text)  # type: ignore[assignment]
    try:
        function()
    except SystemExit:
        pass
    finally:
        sys.stdin = real
        for name in ("read", "readlines", "readline"):
            real.__dict__.pop(name, None)


def _on_alarm(signum: int, frame: Any) -> NoReturn:
    print("timeout occured: alarm went off")
    raise TimeoutException


def _disable() -> None:
    """Repeat the official `reliability_guard`: programs see None where it put None."""
    import builtins

    for name in _DISABLED_OS.split():
        if hasattr(os, name):
            setattr(os, name, None)
    for name in ("rmtree", "move", "chown"):
        setattr(shutil, name, None)
    subprocess.Popen = None  # type: ignore[assignment,misc]
    builtins.quit = builtins.help = None  # type: ignore[assignment]
    for name in _DISABLED_MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
