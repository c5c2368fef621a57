"""Assertion tests: the test's source in one process, the program in another, calls between them as JSON.

The driver runs trusted source (context and test) and alone says whether the test ran to its end. The program serves
calls: it sees arguments and gives results, and knows neither the test nor its verdict.
"""

import ast
import builtins
import importlib
import itertools
import json
import socket
import struct
import types
from collections.abc import Iterator, Set
from decimal import Decimal
from fractions import Fraction
from typing import Any, ClassVar, NoReturn

from . import harness, values

_MAX_MESSAGE = 64 << 20
_MAX_SHOWN = 2000
_MAX_SHOWN_RESULT = 64 << 10
# Modules that a test may use without importing them. Resolved before the program's names, so that a program cannot
# answer for `math.isclose`.
_MODULES = """
math cmath re itertools functools operator random collections heapq bisect copy string datetime json sys
"""


class ProgramGone(BaseException):
    """The program's process ended; not an Exception, so that no `except Exception` of a test takes it for a pass."""


class TestFault(BaseException):
    """The test is broken, whatever the program does: it does not compile, or passes what is not plain data.

    Not an Exception, so that neither `except Exception` of a test hides it nor a program can raise it.
    """


def serve_program(source: str, channel: socket.socket) -> NoReturn:
    """Load the program, then answer requests until the driver hangs up."""

    def serve() -> None:
        namespace = harness.new_module("solution")
        exec(harness.compile_program(source), namespace)
        program = _Program(namespace)
        _send(channel, "ready")
        while (request := _receive(channel)) is not None:
            _send(channel, program.answer(request))

    harness.guarded(serve)


class _Program:
    """The program's objects, which the driver knows by number."""

    def __init__(self, namespace: dict[str, Any]):
        self._namespace = namespace
        self._objects: list[Any] = []

    def answer(self, request: list[Any]) -> dict[str, Any]:
        try:
            operation, *operands = (values.decode(item, self._local) for item in request)
            return {"value": values.encode(getattr(self, f"do_{operation}")(*operands), self._remote)}
        except BaseException as error:
            bases = [base.__name__ for base in type(error).__mro__]
            return {"raised": harness.describe(error) | {"bases": bases}}

    def do_get(self, name: str) -> Any:
        if name not in self._namespace:
            return harness.find_target(self._namespace, name)
        return self._namespace[name]

    def do_call(self, target: Any, arguments: list[Any], keywords: dict[str, Any]) -> Any:
        return target(*arguments, **keywords)

    def do_attribute(self, target: Any, name: str) -> Any:
        return getattr(target, name)

    def do_items(self, target: Any) -> list[Any]:
        return list(target)

    def _remote(self, value: Any) -> dict[str, Any]:
        self._objects.append(value)
        return {"t": "remote", "v": [len(self._objects) - 1, values.type_name(value)]}

    def _local(self, tag: str, content: Any) -> Any:
        return self._objects[content[0]] if tag == "remote" else _array(content)


def run_test(context: str, test: str, fn_name: "str | None", channel: socket.socket) -> NoReturn:
    """Run the test on the driver's side and record {"passed": true}, or what stopped it."""
    client = _Client(channel)

    def run() -> None:
        if _receive(channel) != "ready":
            raise ProgramGone
        namespace = harness.new_module("assertions")
        namespace.update({name: importlib.import_module(name) for name in _MODULES.split()})
        exec(_compile(context, "context.py"), namespace)
        code = _compile(test, "test.py")
        # Once the program's function is known, no other of the LiveCodeBench names is the program's to answer.
        trusted = set(dir(builtins)) - {fn_name} if fn_name else _PYTHON_NAMES
        for name in unbound_names(test, trusted | namespace.keys()) | ({fn_name} if fn_name else set()):
            namespace[name] = Named(client, name)
        if fn_name:
            namespace.setdefault("candidate", namespace[fn_name])
        exec(code, namespace)

    verdict: dict[str, Any] = {"passed": True}
    try:
        run()
    except ProgramGone:
        verdict = {"gone": True}
    except TestFault as error:
        verdict = {"fault": str(error)}
    except SolutionError as error:
        verdict = {"raised": error.details}
    except BaseException as error:
        verdict = {"failed": harness.describe(error) | {"line": _failing_line(error, test)}}
    harness.record(verdict | client.shown())
    harness.finish(0)


def _compile(source: str, name: str) -> types.CodeType:
    # Here and not around the test's run, where `eval` of what a program returned raises SyntaxError as well.
    try:
        return compile(source, name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise TestFault(f"the test's source does not compile: {error}") from None


def unbound_names(test: str, known: Set[str]) -> set[str]:
    """Return the names that the test reads and that neither it binds nor anybody trusted (`known`)."""
    read: set[str] = set()
    bound = set(known)
    for node in ast.walk(ast.parse(test)):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bound.add(node.name)
    return read - bound


_PYTHON_NAMES = frozenset(dir(builtins))
"""Taken at import, before the LiveCodeBench names join the builtins."""


class SolutionError(Exception):
    """An exception of the program's during a call; also an instance of the builtin class of that name."""

    details: ClassVar[dict[str, Any]] = {}


class Remote:
    """A proxy for an object of the program. Compares by identity only, so the program never answers a comparison."""

    def __init__(self, client: "_Client", content: list[Any]):
        self._client, self._content = client, content

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._client.call(self, str(self._content[1]), arguments, keywords)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._client.ask("attribute", self, name)

    def _wire(self) -> dict[str, Any]:
        return {"t": "remote", "v": self._content}

    def __iter__(self) -> Iterator[Any]:
        items = self._client.ask("items", self)
        return iter(items if type(items) is list else [])


class Named(Remote):
    """A name of the program, looked up when the test first uses it."""

    def __init__(self, client: "_Client", name: str):
        super().__init__(client, [])
        self._name = name

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._client.call(self, self._name, arguments, keywords)

    def _wire(self) -> dict[str, Any]:
        if not self._content:
            found = self._client.ask("get", self._name)
            if not isinstance(found, Remote):
                raise _rebuild({"exception": "TypeError", "message": f"{self._name!r} is neither function nor class"})
            self._content = found._content
        return super()._wire()


class _Client:
    def __init__(self, channel: socket.socket):
        self._channel = channel
        self._call: tuple[str, tuple[Any, ...], dict[str, Any]] | None = None
        self._result: list[Any] = []

    def call(self, target: Remote, name: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        self._call, self._result = (name, arguments, keywords), []
        value = self.ask("call", target, list(arguments), keywords)
        self._result = [value]
        return value

    def shown(self) -> dict[str, Any]:
        """Return the last call and, unless it is large, its result."""
        if self._call is None:
            return {}
        name, arguments, keywords = self._call
        texts = itertools.chain(map(_show, arguments), (f"{key}={_show(value)}" for key, value in keywords.items()))
        shown: dict[str, Any] = {"call": f"{name}({', '.join(texts)})"[:_MAX_SHOWN]}
        for value in self._result:
            encoded = harness.encode_result(value)
            if len(json.dumps(encoded)) <= _MAX_SHOWN_RESULT:
                shown["value"] = encoded
        return shown

    def ask(self, *request: Any) -> Any:
        _send(self._channel, [values.encode(item, _reference) for item in request])
        reply = _receive(self._channel)
        if not isinstance(reply, dict):
            raise ProgramGone
        if "raised" in reply:
            raise _rebuild(reply["raised"])
        try:
            return values.decode(reply["value"], self._special)
        except Exception as error:
            raise _rebuild({"exception": "TypeError", "message": f"unreadable result: {error}"}) from None

    def _special(self, tag: str, content: Any) -> Any:
        if tag == "remote":
            return Remote(self, [int(content[0]), str(content[1])])
        return _array(content)


def _array(content: list[Any]) -> Any:
    """Return a numpy array from its record; the only `other` value that travels."""
    if content[0] != "numpy.ndarray":
        raise ValueError(f"cannot be sent: {content[0]}")
    return importlib.import_module("numpy").array(values.decode(content[1], lambda tag, _: None))


def _reference(value: Any) -> dict[str, Any]:
    if isinstance(value, Remote):
        return value._wire()
    if isinstance(value, Fraction | Decimal) or type(value).__module__ == "numpy":
        # What a program returned, or the test made of it, may be of any size.
        raise ValueError(f"the test passes the program a {type(value).__name__} too large to be sent")
    raise TestFault(f"the test passes the program a {type(value).__name__}, which is not plain data")


def _rebuild(details: dict[str, Any]) -> Exception:
    """Return an exception that the test can catch as the builtin class that the program raised."""
    parent: type = Exception
    for name in details.get("bases", ()):
        known = getattr(builtins, name, None) if isinstance(name, str) else None
        if isinstance(known, type) and issubclass(known, Exception):
            parent = known
            break
    try:
        kind = type("SolutionError", (SolutionError, parent), {})
        error = kind(str(details.get("message", "")))
    except TypeError:
        error = SolutionError(str(details.get("message", "")))
    error.details = details
    return error


def _failing_line(error: BaseException, test: str) -> str:
    trace, number = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "test.py" and trace.tb_frame.f_code.co_name == "<module>":
            number = trace.tb_lineno
        trace = trace.tb_next
    lines = test.splitlines()
    return lines[number - 1].strip()[:_MAX_SHOWN] if 0 < number <= len(lines) else ""


def _show(value: Any) -> str:
    try:
        return repr(value)[:_MAX_SHOWN]
    except (ValueError, RecursionError):  # an integer of too many digits, which a program may have returned
        return f"<{type(value).__name__}>"


def _send(channel: socket.socket, data: Any) -> None:
    text = json.dumps(data).encode()
    try:
        channel.sendall(struct.pack("=I", len(text)) + text)
    except OSError:
        raise ProgramGone from None


def _receive(channel: socket.socket) -> Any:
    """Return the next message; None when the other side is gone or talks nonsense."""
    header = _read(channel, 4)
    size = struct.unpack("=I", header)[0] if len(header) == 4 else 0
    if not 0 < size <= _MAX_MESSAGE:
        return None
    try:
        return json.loads(_read(channel, size))
    except (ValueError, RecursionError):
        return None


def _read(channel: socket.socket, size: int) -> bytes:
    parts, missing = [], size
    while missing:
        try:
            part = channel.recv(min(missing, 1 << 20))
        except OSError:
            break
        if not part:
            break
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
