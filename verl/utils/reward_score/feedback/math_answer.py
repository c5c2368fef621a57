"""Math: the one boxed answer, compared by math-verify in a helper process that may be lost without harm."""

import json
import os
import queue
import re
import subprocess
import sys
from pathlib import Path

from verl.utils.reward_score.feedback.answer import no_answer, wrong_answer
from verl.utils.reward_score.feedback.contract import Grade, GraderFault, Task, Verdict
from verl.utils.reward_score.feedback.extract import boxed_answers
from verl.utils.reward_score.feedback.text import clip

HOW = r"Give exactly one final answer inside \boxed{your_answer}."

MAX_ANSWER_CHARS = 2000
# Numbers that sympy would work on for minutes: towers of powers, huge exponents and factorials, endless digits. The
# helper's alarm stops every such comparison, but only after seconds.
_EXPLOSIVE = re.compile(r"(?:\^\s*\{?\s*[\d.]+\s*){3}|\^\s*\{?\s*\d{5,}|\d{5,}\s*[)}]*\s*!|\d{400,}")
_MAX_BRACKETS = 100


def hopeless(answer: str) -> bool:
    """Whether an answer is too long, too nested or too large a number to be worth evaluating."""
    brackets = len(re.findall(r"[({\[]", answer))
    return len(answer) > MAX_ANSWER_CHARS or brackets > _MAX_BRACKETS or bool(_EXPLOSIVE.search(answer))


class Helper:
    """One exec'd process that runs math-verify. It ends when its pipe closes or a comparison takes too long."""

    def __init__(self, wall_seconds: int = 10):
        self._process = subprocess.Popen(
            [sys.executable, "-s", str(Path(__file__).with_name("math_helper.py")), str(wall_seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={
                "PATH": os.defpath,
                "LANG": "C.UTF-8",
                "PYTHONHASHSEED": "0",
                "OMP_NUM_THREADS": "1",
                # math-verify is to be found wherever this process would find it.
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
            text=True,
            encoding="utf-8",
        )
        assert self._process.stdin and self._process.stdout
        self._requests, self._replies = self._process.stdin, self._process.stdout

    def equal(self, gold: str, answer: str) -> bool:
        """Whether math-verify calls both equal. An answer that hangs or kills the helper is unequal.

        Raises:
            GraderFault: The helper did not get through the gold answer, or was gone before.
        """
        try:
            self._requests.write(json.dumps([gold, answer]) + "\n")
            self._requests.flush()
        except OSError as error:
            raise GraderFault(f"the math helper is gone: {error}") from error
        if self._reply() != "gold parsed":
            raise GraderFault(f"the math helper ended while it parsed the gold answer {clip(gold, 200)!r}")
        return self._reply() == "equal"

    def _reply(self) -> str:
        line = self._replies.readline()
        if not line:
            self._process.wait()
        return line.rstrip()

    def alive(self) -> bool:
        """Whether it can compare again."""
        return self._process.poll() is None


class HelperPool:
    """At most `size` helpers, each started when first needed; callers wait for a free one."""

    def __init__(self, size: int):
        self._free: queue.LifoQueue[Helper | None] = queue.LifoQueue()
        for _ in range(size):
            self._free.put(None)

    def equal(self, gold: str, answer: str) -> bool:
        helper = self._free.get()
        try:
            helper = helper if helper and helper.alive() else Helper()
            return helper.equal(gold, answer)
        finally:
            self._free.put(helper)


_POOL = HelperPool(size=2)


def grade(task: Task) -> Grade:
    """Accept one boxed answer that equals the gold answer as text or, both boxed, for math-verify."""
    gold = str(task.ground_truth).strip()
    if gold in ("", "-", "None"):
        raise GraderFault(f"expected a gold answer, got {task.ground_truth!r}")
    answers = boxed_answers(task.response)
    if len(answers) != 1:
        return no_answer(task, HOW)
    (answer,) = answers
    if answer == gold or (not hopeless(answer) and _POOL.equal(gold, answer)):
        return Grade(Verdict.ACCEPTED, pred=answer)
    return wrong_answer(
        task,
        pred=answer,
        mismatch=f"The final answer {clip(answer, 250)} is not correct.",
        gold=f"The correct answer is {clip(gold, 250)}.",
    )
