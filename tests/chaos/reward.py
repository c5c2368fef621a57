"""The reward of the chaos runs: a program in the sandbox says whether the code points add up to an even number.

A file `hang` beside this one makes the next grading wait for ever, once.
"""

import threading
from pathlib import Path

from verl.utils.reward_score.feedback import sandbox

PROGRAM = "print(sum(int(point) for point in input().split()) % 2)"
HANG = Path(__file__).with_name("hang")


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    try:
        HANG.unlink()
    except FileNotFoundError:
        pass
    else:
        threading.Event().wait()
    points = " ".join(str(ord(character)) for character in solution_str) or "0"
    ((outcome,),) = sandbox.run([sandbox.Job(PROGRAM, "stdin", (sandbox.TestInput(points),), time_limit=1)])
    if outcome.status is not sandbox.Status.OK:
        raise RuntimeError(f"the grader's program ended with {outcome.status.name}: {outcome.message}")
    success = outcome.stdout.strip() == "0"
    feedback = "" if success else f"The code points of your answer {solution_str[:5]!r} add up to an odd number."
    return {"score": float(success), "acc": float(success), "feedback": feedback}
