"""`lcb-official` against LiveCodeBench's runner: every case of sandbox.md section 5, with the score measured there.

Point LCB_TESTING_UTIL at LiveCodeBench's `lcb_runner/evaluation/testing_util.py` (commit 28fef95) to hold the table
itself against the real runner.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

from tests.feedback.test_compare import OFFICIAL_ACCEPTS, OFFICIAL_REJECTS
from verl.utils.reward_score.feedback import compute_score

SUM = "print(sum(map(int, {}.split())))"


@dataclass(frozen=True)
class Case:
    name: str
    program: str
    inputs: tuple[str, ...] = ("2\n1 2\n",)
    outputs: tuple[str, ...] = ("3",)
    fn_name: str | None = None

    @property
    def response(self) -> str:
        return f"```python\n{self.program}\n```"

    @property
    def ground_truth(self) -> str:
        kind = "functional" if self.fn_name else "stdin"
        tests = {"inputs": self.inputs, "outputs": self.outputs, "testtype": kind, "time_limit": 6}
        return json.dumps(tests | {"fn_name": self.fn_name})


def main(name: str, body: str, **fields) -> Case:
    """A script that must print the sum of the second line, 3."""
    return Case(name, body, **fields)


def function(name: str, program: str, arguments="[1, 2]\n3", output="6", **fields) -> Case:
    """A function `f` of a list and a number."""
    return Case(name, program, (arguments,), (output,), fn_name="f", **fields)


def twice(name: str, program: str, **fields) -> Case:
    return Case(name, program, ("1\n", "1\n"), ("1", "1"), **fields)


PASS = [
    main("input", f"input()\n{SUM.format('input()')}"),
    main("readline as input", f"import sys\ninput = sys.stdin.readline\ninput()\n{SUM.format('input()')}"),
    main("hoisted stdin.readline", f"from sys import stdin\nstdin.readline()\n{SUM.format('stdin.readline()')}"),
    main("hoisted stdin.read", "from sys import stdin\nprint(sum(map(int, stdin.read().split()[1:])))"),
    main("buffer.read", "import sys\nprint(sum(map(int, sys.stdin.buffer.read().split()[1:])))"),
    main("fileinput", "import fileinput\nrows = [r for r in fileinput.input()]\nprint(sum(map(int, rows[1].split())))"),
    main("joined thread", "import threading\nt = threading.Thread(target=lambda: print(3))\nt.start()\nt.join()"),
    main("unjoined thread", "import threading\nt = threading.Thread(target=lambda: print(3))\nt.start()"),
    main("recursion 20000", "def f(n):\n    return 0 if n == 0 else f(n - 1)\nprint(f(20000) + 3)"),
    main(
        "raised recursion limit",
        "import sys\nsys.setrecursionlimit(10**7)\n"
        "def f(n):\n    return 0 if n == 0 else f(n - 1)\nprint(f(10**6) + 3)",
    ),
    main("missing imports", "print(int(sqrt(9)), file=sys.stdout) if defaultdict(int)[0] == 0 else heappush([], 1)"),
    main("top-level return", "print(3)\nif True:\n    return\nprint(4)"),
    main("exit()", "print(3)\nexit()"),
    main("sys.exit(0)", "import sys\nprint(3)\nsys.exit(0)"),
    main("sys.exit(1)", "import sys\nprint(3)\nsys.exit(1)"),
    main("raise SystemExit", "print(3)\nraise SystemExit"),
    main("alarm off", "import signal\nsignal.alarm(0)\nprint(3)"),
    main("asyncio", "import asyncio\nasync def g():\n    print(3)\nasyncio.run(g())"),
    main("match", "match 1:\n    case 1:\n        print(3)"),
    main("main guard at the end", "def g():\n    print(3)\nif __name__ == '__main__':\n    g()"),
    main("text after the last test's output is stripped", "print('  3  \\n\\n')"),
    Case("state in a module", "import math\nmath.n = getattr(math, 'n', 0) + 1\nprint(math.n)", ("", ""), ("1", "2")),
    function("method of Solution", "class Solution:\n    def f(self, a, b):\n        return sum(a) + b"),
    function("plain function", "def f(a, b):\n    return sum(a) + b"),
    function("top-level tuple", "def f(a, b):\n    return (*a, b)", output="[1, 2, 3]"),
    function("True is 1", "def f(a, b):\n    return True", output="1"),
    function("1.0 is 1", "def f(a, b):\n    return 1.0", output="1"),
    function("numpy scalar", "import numpy as np\ndef f(a, b):\n    return np.int64(6)"),
    function("numpy array of one", "import numpy as np\ndef f(a, b):\n    return np.array([6])", output="[6]"),
    function("printing is ignored", "def f(a, b):\n    print('noise')\n    return 6"),
    function("preamble types", "def f(a: List[int], b: int) -> int:\n    return sum(a) + b"),
    function("argument with spaces", "def f(a):\n    return a", arguments='"a  b"', output='"a  b"'),
    function("defaultdict", "def f(a, b):\n    return defaultdict(int, x=1)", output='{"x": 1}'),
    Case(
        "state on self",
        "class Solution:\n    n = 0\n    def f(self, a):\n        self.n += 1\n        return self.n",
        ("0", "0"),
        ("1", "2"),
        fn_name="f",
    ),
    Case(
        "state in a global",
        "n = [0]\ndef f(a):\n    n[0] += 1\n    return n[0]",
        ("0", "0"),
        ("1", "2"),
        fn_name="f",
    ),
]

FAIL = [
    main("for line in stdin", "import sys\nfor line in sys.stdin:\n    pass\nprint(3)"),
    main("next(stdin)", "import sys\nnext(sys.stdin)\nprint(3)"),
    main("stdin.fileno", "import sys\nsys.stdin.fileno()\nprint(3)"),
    main("buffer.readline twice", "import sys\nr = sys.stdin.buffer.readline\nr()\nprint(sum(map(int, r().split())))"),
    main("buffer.readlines", "import sys\nsys.stdin.buffer.readlines()\nprint(3)"),
    main("for line in buffer", "import sys\nfor line in sys.stdin.buffer:\n    pass\nprint(3)"),
    main("hoisted stdin, iterated", "from sys import stdin\nprint(sum(map(int, list(stdin)[1].split())))"),
    main("hoisted stdin.buffer", "from sys import stdin\nprint(sum(map(int, stdin.buffer.read().split()[1:])))"),
    main(
        "hoisted readline past the end",
        "from sys import stdin\nwhile stdin.readline():\n    pass\nprint(3)",
        inputs=("1",),
    ),
    main("readline then read", "import sys\nsys.stdin.readline()\nprint(sum(map(int, sys.stdin.read().split())))"),
    main("read twice", "import sys\nsys.stdin.read()\nprint(3 if sys.stdin.read() == '' else 0)"),
    main("len(readlines)", "import sys\nprint(len(sys.stdin.readlines()) + 1)"),
    main("open(0)", "print(sum(map(int, open(0).read().split()[1:])))"),
    main("os.read(0)", "import os\nprint(sum(map(int, os.read(0, 100).split()[1:])))"),
    main("stdout.buffer", "import sys\nsys.stdout.buffer.write(b'3')"),
    main("stdout.reconfigure", "import sys\nsys.stdout.reconfigure(line_buffering=True)\nprint(3)"),
    main("hoisted stdout", "from sys import stdout\nstdout.write('3')"),
    main("os.write(1)", "import os\nos.write(1, b'3')"),
    main("os._exit(0)", "import os\nprint(3, flush=True)\nos._exit(0)"),
    main("quit()", "print(3)\nquit()"),
    main("global", "n = 0\ndef g():\n    global n\n    n += 3\ng()\nprint(n)"),
    main("globals()", "x = 3\nprint(globals()['x'])"),
    main("eval in a comprehension", "x = 3\nprint(*[eval('x') for _ in range(1)])"),
    main("builtin reassigned after use", "print(max(3, 1))\nmax = 5"),
    main("input reassigned after use", "input()\nimport sys\nprint(3)\ninput = sys.stdin.readline"),
    main("from __future__", "from __future__ import annotations\nprint(3)"),
    main("star import in try", "try:\n    from math import *\nexcept ImportError:\n    pass\nprint(3)"),
    main("main guard, then more", "if __name__ == '__main__':\n    print(3)\nx = 1"),
    main("reversed main guard", "if '__main__' == __name__:\n    print(3)"),
    main("main guard in try", "try:\n    if __name__ == '__main__':\n        print(3)\nfinally:\n    pass"),
    main("top-level yield", "print(3)\nyield"),
    main("comments only", "# nothing"),
    main("empty", ""),
    main("exception after the output", "print(3)\nraise ValueError"),
    main("KeyboardInterrupt", "print(3)\nraise KeyboardInterrupt"),
    main("GeneratorExit", "print(3)\nraise GeneratorExit"),
    main("syntax error", "print(3"),
    main("wrong", "print(4)"),
    main("no output", "pass"),
    function("set", "def f(a, b):\n    return {1, 2}", output="[1, 2]"),
    function("deque", "def f(a, b):\n    return deque([1, 2])", output="[1, 2]"),
    function("generator", "def f(a, b):\n    yield 1", output="[1]"),
    function("nested tuple", "def f(a, b):\n    return [(1, 2)]", output="[[1, 2]]"),
    function("float difference", "def f(a, b):\n    return 0.1 + 0.2", output="0.3"),
    function("numpy array of two", "import numpy as np\ndef f(a, b):\n    return np.array([1, 2])", output="[1, 2]"),
    function("SystemExit", "import sys\ndef f(a, b):\n    sys.exit(0)"),
    function("missing function", "def g(a, b):\n    return 6"),
    function("Solution in a comment", "# class Solution\ndef f(a, b):\n    return 6"),
    function(
        "Solution with arguments",
        "class Solution:\n    def __init__(self, x):\n        pass\n    def f(self, a, b):\n        return 6",
    ),
    function("string for number", "def f(a, b):\n    return '6'"),
    function("trailing newline in the input", "def f(a, b):\n    return 6", arguments="[1, 2]\n3\n"),
    function("wrong number of arguments", "def f(a):\n    return 6"),
]

# LiveCodeBench's runner accepts these; no mode of ours does. They are where we differ on purpose.
CHEATS = [
    function(
        "AlwaysEqual", "class A:\n    def __eq__(self, other):\n        return True\ndef f(a, b):\n    return A()"
    ),
    function(
        "list subclass",
        "class A(list):\n    def __eq__(self, other):\n        return True\ndef f(a, b):\n    return A()",
        output="[1]",
    ),
    function(
        "int subclass",
        "class A(int):\n    def __eq__(self, other):\n        return True\ndef f(a, b):\n    return A(7)",
    ),
    function(
        "frame walk",
        "def f(a, b):\n    frame = sys._getframe(1)\n    while frame:\n"
        "        if 'gt_out' in frame.f_locals:\n            return frame.f_locals['gt_out']\n"
        "        frame = frame.f_back",
    ),
    function(
        "gc scan",
        "import gc, json\ndef f(a, b):\n    for o in gc.get_objects():\n"
        "        if type(o) is dict and 'outputs' in o and 'inputs' in o:\n"
        "            return json.loads(o['outputs'][0])",
    ),
    main(
        "patched comparator",
        "import sys\nfor m in list(sys.modules.values()):\n    if hasattr(m, 'get_stripped_lines'):\n"
        "        m.get_stripped_lines = lambda text: ['']\nprint(4)",
    ),
]

COMPARATOR = {
    **{Case(f"prints {a!r} for {b!r}", f"print({a!r}, end='')", ("",), (b,)): True for a, b in OFFICIAL_ACCEPTS},
    **{Case(f"prints {a!r} for {b!r}", f"print({a!r}, end='')", ("",), (b,)): False for a, b in OFFICIAL_REJECTS},
}
TABLE = {**dict.fromkeys(PASS, True), **dict.fromkeys(FAIL, False), **COMPARATOR}


def cases(table):
    return pytest.mark.parametrize("case", table, ids=lambda case: case.name.encode("unicode_escape").decode())


def score(case: Case, mode: str) -> float:
    result = compute_score("livecodebench", case.response, case.ground_truth, mode=mode)
    assert not result["grader_error"]
    return result["score"]


@cases(TABLE)
def test_our_score_is_the_official_one(case):
    assert score(case, "lcb-official") == TABLE[case]


@cases(CHEATS)
@pytest.mark.parametrize("mode", ["lcb-official", "script", "paper"])
def test_cheats_score_nothing_in_any_mode(case, mode):
    assert score(case, mode) == 0


OFFICIAL_RUN = """
import sys, json, importlib.util
spec = importlib.util.spec_from_file_location("testing_util", sys.argv[1])
runner = importlib.util.module_from_spec(spec)
sys.modules["testing_util"] = runner
spec.loader.exec_module(runner)
import numpy as np
sys.set_int_max_str_digits(50000)
case = json.load(sys.stdin)
results, _ = runner.run_test({"input_output": json.dumps(case["tests"])}, test=case["program"], timeout=6)
results = [r.item(0) if isinstance(r, np.ndarray) else r for r in results]
print("official", bool(np.all(np.array(results) > 0)), file=sys.stderr)
"""


def official_score(case: Case, runner: str) -> bool:
    tests = {"inputs": case.inputs, "outputs": case.outputs, "fn_name": case.fn_name}
    ran = subprocess.run(
        [sys.executable, "-c", OFFICIAL_RUN, runner],
        input=json.dumps({"tests": tests, "program": case.program}),
        capture_output=True,
        text=True,
        timeout=60,
    )
    # No result at all (SystemExit, os._exit) is a failure there.
    return "official True" in ran.stderr


def test_the_table_is_what_the_official_runner_says():
    runner = os.environ.get("LCB_TESTING_UTIL")
    if not runner:
        pytest.skip("LCB_TESTING_UTIL does not point at LiveCodeBench's testing_util.py")
    expected = {**TABLE, **dict.fromkeys(CHEATS, True)}
    assert [case.name for case in expected if official_score(case, runner) != expected[case]] == []
