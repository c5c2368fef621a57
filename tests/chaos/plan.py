"""What is broken, and when: twenty-two faults, drawn from one seed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

# Steps of a run. The last is spared: a fault late in it would meet a run that has ended.
STEPS = 4
TIMES = 2


@dataclass(frozen=True)
class Moment:
    """One fault of the plan.

    Attributes:
        fault: name in `faults.FAULTS`.
        number: which of this fault's `TIMES`, from 0; faults that come in several forms take them in turn.
        step: during which training step, 1 to STEPS - 1.
        part: how much of that step is over, 0 to 1, by its seconds in the undisturbed run.
        draw: seeds every other choice (which process, which file, how many bytes).
    """

    fault: str
    number: int
    step: int
    part: float
    draw: int

    @property
    def name(self) -> str:
        return f"{self.fault}-{self.number}"


def make(faults: Sequence[str], seed: int) -> list[Moment]:
    """Every fault `TIMES` times. A moment depends on the seed and its own name, so that one can be repeated alone."""
    moments = []
    for fault in faults:
        for number in range(TIMES):
            draw = random.Random(f"{seed}/{fault}/{number}")
            moments.append(Moment(fault, number, draw.randrange(1, STEPS), draw.random(), draw.randrange(2**32)))
    return moments
