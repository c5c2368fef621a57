# ruff: noqa: E501
"""The official runner's peculiarities, as measured on it: programs that pass there, and right programs that fail.

The programs print or return 3 for the input "1\\n2\\n" (or the arguments 1 and 2).
"""

from collections.abc import Iterator

import pytest

from tests.feedback.sandbox.conftest import Lease
from verl.utils.reward_score.feedback.sandbox import Job, Status, TestInput, TestOutcome
from verl.utils.reward_score.feedback.sandbox.fork_server import Layers
from verl.utils.reward_score.feedback.sandbox.runner import run_job

PASS = {
    "input": "print(int(input()) + int(input()))",
    "readline at top level": "import sys\ninput = sys.stdin.readline\nprint(int(input()) + int(input()))",
    "hoisted stdin, readline": "from sys import stdin\nprint(int(stdin.readline()) + int(stdin.readline()))",
    "hoisted stdin, read": "from sys import stdin\nprint(sum(map(int, stdin.read().split())))",
    "buffer.read": "import sys\nprint(sum(map(int, sys.stdin.buffer.read().split())))",
    "fileinput": "import fileinput\nprint(sum(int(line) for line in fileinput.input() if line.strip()))",
    "thread with join": "import threading\ndef m(): print(3)\nt = threading.Thread(target=m)\nt.start()\nt.join()",
    "recursion": "def f(n): return n and 1 + f(n - 1)\nprint(f(20000) - 19997)",
    "deeper recursion": "import sys, threading\nsys.setrecursionlimit(10**6)\ndef f(n): return n and f(n - 1)\nprint(f(99) + 3)",
    "missing imports": "print(Counter([3]).most_common(1)[0][0] * gcd(1, 2) + sum(List[int] is None for _ in range(1)))",
    "top-level return": "print(3)\nreturn",
    "exit": "print(3)\nexit()",
    "sys.exit": "import sys\nprint(3)\nsys.exit(0)",
    "SystemExit": "print(3)\nraise SystemExit",
    "alarm off": "import signal\nsignal.alarm(0)\nprint(3)",
    "asyncio": "import asyncio\nasync def m(): print(3)\nasyncio.run(m())",
    "match": "match 1:\n case 1: print(3)",
    "main guard last": "def main(): print(int(input()) + int(input()))\nif __name__ == '__main__':\n main()",
}
FAIL = {
    "iterating stdin": "import sys\nprint(sum(int(line) for line in sys.stdin))",
    "next": "import sys\nprint(int(next(sys.stdin)) + int(next(sys.stdin)))",
    "fileno": "import sys\nsys.stdin.fileno()\nprint(3)",
    "buffer.readline twice": "import sys\nr = sys.stdin.buffer.readline\nprint(int(r()) + int(r()))",
    "buffer.readlines": "import sys\nprint(sum(map(int, sys.stdin.buffer.readlines())))",
    "iterating the buffer": "import sys\nprint(sum(int(line) for line in sys.stdin.buffer))",
    "hoisted stdin, iteration": "from sys import stdin\nprint(sum(int(line) for line in stdin))",
    "hoisted stdin, buffer": "from sys import stdin\nprint(sum(map(int, stdin.buffer.read().split())))",
    "hoisted stdin, past the end": "from sys import stdin\nfor _ in range(9): stdin.readline()\nprint(3)",
    "readline then read": "import sys\nfirst = int(sys.stdin.readline())\nprint(first + sum(map(int, sys.stdin.read().split())))",
    "read twice": "import sys\nsys.stdin.read()\nprint(3 + len(sys.stdin.read()))",
    "readlines": "import sys\nprint(len(sys.stdin.readlines()) + 1)",
    "open(0)": "print(sum(map(int, open(0).read().split())))",
    "os.read(0)": "import os\nprint(sum(map(int, os.read(0, 99).split())))",
    "stdout.buffer": "import sys\nsys.stdout.buffer.write(b'3')",
    "reconfigure": "import sys\nsys.stdout.reconfigure(line_buffering=True)\nprint(3)",
    "hoisted stdout": "from sys import stdout\nstdout.write('3')",
    "os.write": "import os\nos.write(1, b'3')",
    "os._exit": "import os\nprint(3, flush=True)\nos._exit(0)",
    "quit": "print(3)\nquit()",
    "global": "n = 0\ndef f():\n global n\n n += 3\nf()\nprint(n)",
    "globals()": "x = 3\nprint(globals()['x'])",
    "eval in a comprehension": "x = 3\nprint([eval('x') for _ in range(1)][0])",
    "builtin reassigned after use": "print(max(1, 3))\nmax = 1",
    "input reassigned after use": "import sys\na = int(input())\ninput = sys.stdin.readline\nprint(a + int(input()))",
    "future import": "from __future__ import annotations\nprint(3)",
    "star import in try": "try:\n from math import *\nexcept ImportError:\n pass\nprint(3)",
    "guard not last": "def main(): print(3)\nif __name__ == '__main__':\n main()\nx = 1",
    "guard reversed": "if '__main__' == __name__:\n print(3)",
    "guard in try": "try:\n if __name__ == '__main__':\n  print(3)\nfinally:\n pass",
    "top-level yield": "print(3)\nyield 1",
    "comments only": "# 3",
    "exception after output": "print(3)\n1 / 0",
    "KeyboardInterrupt": "print(3)\nraise KeyboardInterrupt",
}  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[Lease]:
    lease = Lease(Layers())
    yield lease
    lease.current.end()


def _run(server: Lease, program: str, *texts: str, fn_name: str | None = None) -> list[TestOutcome]:
    kind = "functional" if fn_name else "stdin"
    tests = tuple(map(TestInput, texts))
    return run_job(Job(program, kind, tests, fn_name=fn_name, mode="lcb-official", time_limit=1), server)  # type: ignore[arg-type]


def _right(outcome: TestOutcome) -> bool:
    return outcome.status is Status.OK and outcome.stdout.strip() == "3"


@pytest.mark.parametrize("name", PASS)
def test_passes_officially(name: str, server: Lease) -> None:
    outcome = _run(server, PASS[name], "1\n2\n")[0]
    assert _right(outcome), outcome


@pytest.mark.parametrize("name", FAIL)
def test_fails_officially(name: str, server: Lease) -> None:
    outcome = _run(server, FAIL[name], "1\n2\n")[0]
    assert not _right(outcome) and outcome.status is not Status.SANDBOX_ERROR, outcome


def test_an_overrun_is_a_time_limit_and_ends_the_program(server: Lease) -> None:
    program = "n = int(input())\nwhile n == 2: pass\nprint(n)"
    outcomes = _run(server, program, "1", "2", "3")
    assert [outcome.status for outcome in outcomes] == [Status.OK, Status.TIME_LIMIT, Status.NOT_RUN]


def test_an_alarm_switched_off_lets_it_overrun(server: Lease) -> None:
    program = "import signal, time\nsignal.alarm(0)\nend = time.time() + 1.3\nwhile time.time() < end: pass\nprint(3)"
    assert _right(_run(server, program, "")[0])


class TestCalls:
    def test_each_line_is_an_argument(self, server: Lease) -> None:
        outcome = _run(server, "def f(a, b): return a + b", "[1, 2]\n[3]", fn_name="f")[0]
        assert outcome.result == [1, 2, 3]

    def test_a_trailing_newline_fails_the_program(self, server: Lease) -> None:
        outcomes = _run(server, "def f(a): return a", "1", "2\n", fn_name="f")
        assert [outcome.status for outcome in outcomes] == [Status.RUNTIME_ERROR, Status.NOT_RUN]

    def test_a_comment_asks_for_the_class(self, server: Lease) -> None:
        outcome = _run(server, "# no class Solution\ndef f(a): return a", "1", fn_name="f")[0]
        assert outcome.status is Status.RUNTIME_ERROR

    def test_state_persists(self, server: Lease) -> None:
        program = "class Solution:\n n = 0\n def f(self, a):\n  self.n += a\n  return self.n"
        assert [outcome.result for outcome in _run(server, program, "1", "2", fn_name="f")] == [1, 3]

    def test_a_missing_function_fails_the_program(self, server: Lease) -> None:
        outcome = _run(server, "def g(a): return a", "1", fn_name="f")[0]
        assert outcome.status is Status.RUNTIME_ERROR

    def test_exit_takes_every_result_with_it(self, server: Lease) -> None:
        program = "def f(a):\n if a == 2: raise SystemExit\n return a"
        outcomes = _run(server, program, "1", "2", fn_name="f")
        assert [outcome.status for outcome in outcomes] == [Status.RUNTIME_ERROR, Status.NOT_RUN]

    def test_printing_is_ignored(self, server: Lease) -> None:
        assert _run(server, "def f(a):\n print('x')\n return a", "1", fn_name="f")[0].result == 1
