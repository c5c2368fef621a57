"""Values that programs return, or claim to: none raises or costs without bound in the grader's process."""

import json
import tracemalloc

import pytest

from verl.utils.reward_score.feedback import compare, compute_score, sandbox
from verl.utils.reward_score.feedback.sandbox import Job, Opaque, Status, TestInput, runner
from verl.utils.reward_score.feedback.sandbox.jail import values

_EQUAL_HASH = 2**61 - 1


def _grade(program: str, kind: str = "functional", text: str = "[1]", expected: str = "1", **options: str) -> dict:
    outputs = [] if kind == "code" else [expected]
    tests = {"inputs": [text], "outputs": outputs, "testtype": kind, "fn_name": "f", "time_limit": 5}
    return compute_score("livecodebench", f"```python\n{program}\n```", json.dumps(tests), **options)


def _forged(value: str) -> str:
    """A program that writes its own record: `value` is a Python expression for what stands in it."""
    return (
        "import json, os\ndef f(x):\n"
        f"    os.write(3, json.dumps({{'value': {value}}}).encode())\n    os._exit(0)"
    )  # fmt: skip


_RIGHT = [
    ("def f(x): return 10**5000", "code", "assert f(1) == 10**5000"),
    ("def f(x): return 10**60000 if x == 1 else 2", "code", "assert f(f(1)) == 2"),
    ("import numpy as np\ndef f(x): return np.zeros(9000) if type(x) is int else len(x)", "code",
     "import numpy as np\na = f(1)\nassert f([*a, *a]) == 18000"),
    ("import numpy as np\ndef f(x): return [np.int64(0), np.float64(0), np.bool_(False)]", "functional", "[1]",
     "[0, 0.0, false]"),
    ("import numpy as np\ndef f(x): return np.array([[1]])", "functional", "[1]"),
]  # fmt: skip


@pytest.mark.parametrize("case", _RIGHT, ids=lambda case: case[0][-40:])
def test_right_values_are_accepted(case: tuple[str, ...]) -> None:
    assert _grade(*case)["verdict"] == "accepted"


_WRONG = {
    "forgotten modulo": "def f(n):\n    r = 1\n    for i in range(1, 3001):\n        r *= i\n    return r",
    "large integer in a list": "def f(x): return [10**5000, {10**5001}]",
    "large key": "def f(x): return {10**5000: 1}",
    "large float": _forged("{'t': 'complex', 'v': [10**399, 0]}"),
    "complex of text": _forged("{'t': 'complex', 'v': ['1', '2']}"),
    "array of one long text": _forged("{'t': 'other', 'v': ['numpy.ndarray', ['x' * 200000] + [''] * 3000]}"),
    "honest array of texts": "import numpy as np\ndef f(x): return np.array(['x' * 100000] + [''] * 2000)",
    "ragged array": _forged("{'t': 'other', 'v': ['numpy.ndarray', [[1], [1, 2]]]}"),
    "set of equal hashes": _forged(f"{{'t': 'set', 'v': [i * {_EQUAL_HASH} for i in range(30000)]}}"),
    "keys of equal hashes": _forged(f"{{'t': 'dict', 'v': [[i * {_EQUAL_HASH}, 1] for i in range(30000)]}}"),
    "honest set of equal hashes": f"def f(x): return {{i * {_EQUAL_HASH} for i in range(2000)}}",
    "tuples of equal hashes": _forged(
        f"{{'t': 'set', 'v': [{{'t': 'tuple', 'v': [i * {_EQUAL_HASH}]}} for i in range(20000)]}}"
    ),
    "empty lists": _forged("[[]] * 300000"),
    "set of a text": _forged("{'t': 'set', 'v': 'x' * 1000000}"),
    "tag that is a list": _forged("{'t': ['set'], 'v': []}"),
    "foreign tag": _forged("{'t': 'remote', 'v': [0, 'x']}"),
    "name that is a number": _forged("{'t': 'other', 'v': [7, None]}"),
    "unhashable element": _forged("{'t': 'set', 'v': [[]]}"),
    "signalling NaN": _forged("{'t': 'decimal', 'v': 'sNaN'}"),
    "fraction by zero": _forged("{'t': 'fraction', 'v': [1, 0]}"),
    "deep": _forged("json.loads('[' * 900 + ']' * 900)"),
    "odd exception": "import json, os\ndef f(x):\n    os.write(3, json.dumps({'exception': 'x', 'message': [[1]], "
    "'frames': [[10**4000, 'f'], [True, 'f'], [1, [[]]]]}).encode())\n    os._exit(0)",
    "exception as message": 'import os\ndef f(x):\n    os.write(3, b\'{"exception":"x","message":\' + b\'[\' * 900 + '
    "b']' * 900 + b'}')\n    os._exit(0)",
}


@pytest.mark.parametrize("mode", ["script", "paper", "lcb-official"])
@pytest.mark.parametrize("program", _WRONG.values(), ids=_WRONG)
def test_a_value_is_at_worst_a_wrong_answer(program: str, mode: str) -> None:
    text = "1" if mode == "lcb-official" else "[1]"
    result = _grade(program, text=text, mode=mode)
    assert result["grader_error"] == 0
    assert result["verdict"] in ("wrong_answer", "runtime_error")


@pytest.mark.parametrize(
    ("program", "test"),
    [
        ("def f(x): return '('", "assert eval(f(1)) == 3"),
        ("def f(x): return '[' * 5000", "import ast\nassert ast.literal_eval(f(1)) == []"),
        ("def f(x): raise SyntaxError('x')", "assert f(1) == 3"),
        ("from fractions import Fraction\ndef f(x): return Fraction(3**5000, 7)",
         "from fractions import Fraction\nassert f(f(1) ** 3) == 1"),
        ("def f(x):\n    y = [1]\n    for _ in range(150): y = [y]\n    return y",
         "y = f(1)\nfor _ in range(150): y = [y]\nassert f(y) == 1"),
        ("def f(x): return 10**60000", "assert str(f(1)) == '1'"),
    ],
)  # fmt: skip
def test_what_a_program_returns_is_never_a_fault_of_the_test(program: str, test: str) -> None:
    result = _grade(program, "code", test)
    assert (result["grader_error"], result["score"]) == (0, 0.0)


def _assertion_replying(reply: bytes) -> dict:
    """Grade an assertion test on a program that answers the driver's first call itself."""
    program = (
        f"import os, struct\ndef f(x):\n    t = {reply!r}\n"
        "    os.write(4, struct.pack('=I', len(t)) + t)\n    os._exit(0)"
    )
    return _grade(program, "code", "assert f(1) == 2")


@pytest.mark.parametrize(
    "reply",
    [
        b'{"value": {"t": "complex", "v": [1e308, "x"]}}',
        b'{"value": {"t": "complex", "v": [%d, 0.0]}}' % 10**399,
        b'{"value": {"t": "other", "v": ["numpy.ndarray", [[1], [1, 2]]]}}',
        b'{"value": {"t": "other", "v": 3}}',
        b'{"value": {"t": "remote", "v": {}}}',
        b'{"raised": [1]}',
        b'{"raised": {"exception": 1, "message": [2], "frames": 3, "bases": 4}}',
        b'{"raised": {"exception": "x", "message": [2], "frames": [[1, 2]], "bases": [[], "UnicodeDecodeError"]}}',
        b"[]",
        b"null",
    ],
)
def test_no_reply_of_a_program_is_a_fault(reply: bytes) -> None:
    result = _assertion_replying(reply)
    assert (result["grader_error"], result["score"]) == (0, 0.0)


def test_comparing_arrays_builds_none_of_many_texts() -> None:
    returned = Opaque("numpy.ndarray", [["x" * 200_000] + [""] * 3000])
    tracemalloc.start()
    try:
        assert not compare.value_official(returned, 1)
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


def test_a_broken_comparison_is_the_programs_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    from verl.utils.reward_score.feedback import programs
    from verl.utils.reward_score.feedback.contract import Verdict

    def fail(*_: object) -> bool:
        raise OverflowError("too large")

    mode = programs.Mode(**{**vars(programs.MODES["script"]), "same_value": fail, "same_stdout": fail})
    monkeypatch.setitem(programs.MODES, "script", mode)
    outcome = sandbox.TestOutcome(Status.OK, returned=True, result=1)
    for kind in ("functional", "stdin"):
        assert programs.Judge(kind, "script", ("1",)).verdict(0, outcome) is Verdict.WRONG_ANSWER


class TestDecode:
    @pytest.mark.parametrize(
        "value",
        [
            {1: 2, None: (3, {4}), "x": frozenset({(1, -1), (1, -2)})},
            [1 + 2j, float("inf"), b"x", 10**5000, -(10**5000), True],
            {1 << k for k in range(300)},
            {(x, y) for x in range(-20, 20) for y in range(-20, 20)},
        ],
        ids=["mixed", "numbers", "powers", "points"],
    )
    def test_values_come_back(self, value: object) -> None:
        back = runner.decoded(json.loads(json.dumps(values.encode(value))))
        assert (back, type(back)) == (value, type(value))

    def test_pairs_of_equal_hashes_are_counted_over_a_whole_value(self) -> None:
        sets = [{"t": "set", "v": [0, i * _EQUAL_HASH]} for i in range(1, 1500)]
        assert runner.decoded(sets) == Opaque("unreadable value")
        assert runner.decoded(sets[:900])[899 - 1] == {0, 899 * _EQUAL_HASH}

    def test_more_elements_than_a_right_answer_can_have_are_not_read(self) -> None:
        job = Job("def f(n): return [0] * n", "functional", (TestInput("[150000]"),), fn_name="f")
        assert isinstance(sandbox.run([job])[0][0].result, Opaque)
        large = Job(job.program, "functional", (TestInput("[150000]", 5 << 20),), fn_name="f")
        assert sandbox.run([large])[0][0].result == [0] * 150_000
