"""Whether a disturbed run is worth the same as the undisturbed one, and the table of what happened."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

LOSSES = (
    "actor/pg_loss",
    "actor/grad_norm",
    "self_distillation/kl",
    "self_distillation/teacher_student_distance",
    "critic/score/mean",
)
TOLERANCE = 1e-5
Metrics = Mapping[int, Mapping[str, float]]


@dataclass(frozen=True)
class Row:
    """Of the table: one fault, and what became of the run.

    Attributes:
        moment: where in the run it came.
        happened: what was done, and what the run did.
        seconds: from the fault to the run's end; None where it went on.
        resumed_from: the step after which the second start went on; None where none was needed.
        losses_equal: of every step, to `TOLERANCE`.
        left: processes that lived on after the end.
        faults: what is wrong, none if it passed; `not run: ...` where the machine cannot make the fault.
    """

    fault: str
    moment: str
    happened: str = ""
    seconds: float | None = None
    resumed_from: int | None = None
    losses_equal: bool = False
    left: int = 0
    faults: tuple[str, ...] = ()


def different_losses(run: Metrics, undisturbed: Metrics) -> list[str]:
    """One line per number that is not that of the undisturbed run; a missing one is different."""
    lines = []
    for step, numbers in undisturbed.items():
        for name in LOSSES:
            got, wanted = run.get(step, {}).get(name, math.nan), numbers[name]
            if not math.isclose(got, wanted, rel_tol=TOLERANCE):
                lines.append(f"step {step}: {name} is {got:.8g}, undisturbed {wanted:.8g}")
    return lines


def miscounted(
    attempts: Sequence[Sequence[int]], resumed_from: Sequence[int], *, steps: int, may_repeat: int
) -> list[str]:
    """Steps that are missing from the logs, or are there more often than they were taken.

    Args:
        attempts: the steps that each start logged.
        resumed_from: the step after which each start went on.
        steps: how many there should be.
        may_repeat: so many may be logged twice, each by another start.
    """
    faults = []
    for number, (logged, start) in enumerate(zip(attempts, resumed_from, strict=True), 1):
        if list(logged) != list(range(start + 1, start + 1 + len(logged))):
            faults.append(f"start {number} went on from step {start} and logged the steps {list(logged)}")
    if missing := sorted(set(range(1, steps + 1)) - {step for logged in attempts for step in logged}):
        faults.append(f"the steps {missing} were logged by no start")
    repeated = sum(map(len, attempts)) - steps
    if repeated > may_repeat:
        faults.append(f"{repeated} steps were taken and logged twice, although every step was saved")
    return faults


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    head = "fault | moment | what happened | seconds to the end | resumed from | losses equal | left | passed"
    lines = [f"| {head} |", "|" + "---|" * (head.count("|") + 1)]
    for row in rows:
        seconds = "went on" if row.seconds is None else f"{row.seconds:.1f}"
        resumed = "-" if row.resumed_from is None else f"step {row.resumed_from}"
        passed = "yes" if not row.faults else "; ".join(row.faults)
        cells = [row.fault, row.moment, row.happened, seconds, resumed, row.losses_equal, row.left, passed]
        lines.append("| " + " | ".join(str(cell).replace("|", "/").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines)


def as_json(rows: Mapping[str, Row]) -> list[dict]:
    return [{**asdict(row), "passed": not row.faults} for row in rows.values()]


def from_json(entries: Sequence[dict]) -> dict[str, Row]:
    """Of `as_json`, by name."""
    rows = [{name: value for name, value in entry.items() if name != "passed"} for entry in entries]
    return {row["fault"]: Row(**{**row, "faults": tuple(row["faults"])}) for row in rows}
