"""Notice a training that goes wrong, from the metrics of its steps. Plain Python: the trainer acts on the events.

Every metric is compared with the run's own past, so that no threshold belongs to a task. `bounds` lists the metrics.
Noise is no alarm: a metric must be out of bounds for some steps in a row, and by more than such steps vary anyway. A
model that answers shorter, or with another entropy, and no worse is learning: except for the accuracy itself, a metric
raises an alarm only together with a fall of accuracy. While nothing has ever been solved, accuracy cannot fall, and
only numbers that are not finite are reported.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

GUARDS = ("off", "warn", "stop", "rollback")
ACCURACY = "critic/score/mean"
# Metrics of every step, meaningless once they are not finite.
FINITE = ("actor/grad_norm", "actor/pg_loss", "actor/loss")
VALIDATION = "val-core/"
VALIDATION_MARGIN = 0.1


@dataclass(frozen=True)
class GuardConfig:
    """Keys of the guard in the block `insight` of the yaml."""

    guard: str = "warn"
    """off; warn: report what looks wrong; stop: save and end the run; rollback: once, go back to the last good
    checkpoint, with the teacher copied from the student, and go on; then stop."""

    guard_patience: int = 5
    """Steps in a row that must be out of bounds."""

    guard_fall: float = 0.5
    """Share of its past below which accuracy, in training and validation, and length are out of bounds."""

    def __post_init__(self):
        if self.guard not in GUARDS:
            raise ValueError(f"insight.guard={self.guard!r}: expected one of {', '.join(GUARDS)}.")
        if not (type(self.guard_patience) is int and self.guard_patience >= 1):
            raise ValueError(f"insight.guard_patience={self.guard_patience!r}: expected a whole number of steps >= 1.")
        if not (isinstance(self.guard_fall, float) and 0 < self.guard_fall < 1):
            raise ValueError(f"insight.guard_fall={self.guard_fall!r}: expected a number between 0 and 1.")

    @classmethod
    def of(cls, block: Mapping[str, Any]) -> "GuardConfig":
        """Read the block of the yaml, where a bare `off` is false."""
        given: dict[str, Any] = {each.name: block[each.name] for each in fields(cls) if each.name in block}
        if given.get("guard") is False:
            given["guard"] = "off"
        return cls(**given)


@dataclass(frozen=True)
class Event:
    """One reason for a human to look."""

    step: int
    signal: str
    """The metric."""
    sentence: str


@dataclass(frozen=True)
class Bounds:
    """Bounds of a metric, low * past and high * past + margin; None: no such bound."""

    metric: str
    words: str
    low: float | None = None
    high: float | None = None
    margin: float = 0.0
    excused: bool = True
    """Raise no alarm while training accuracy has not fallen."""

    def is_out(self, value: float, past: float) -> bool:
        below = self.low is not None and value < self.low * past
        return below or (self.high is not None and value > self.high * past + self.margin)


def bounds(config: GuardConfig) -> tuple[Bounds, ...]:
    """Return the metrics that the guard compares with their past."""
    return (
        Bounds(ACCURACY, "training accuracy", low=config.guard_fall, excused=False),
        Bounds("response_length/mean", "length of answers", low=config.guard_fall, high=1 / config.guard_fall),
        Bounds("self_distillation/student_entropy", "entropy of the student", low=0.1, high=3.0),
        Bounds("actor/entropy", "entropy of the student", low=0.1, high=3.0),
        Bounds("self_distillation/reprompt_sample_fraction", "share of answers that have a teacher", low=0.1),
        Bounds("training/incorrect_format", "share of answers in a wrong format", high=1.0, margin=0.25),
        Bounds("response_length/clip_ratio", "share of answers cut by the length limit", high=1.0, margin=0.4),
        Bounds("self_distillation/teacher_student_distance", "distance of teacher and student", high=10.0),
    )


# Fewer steps are no past to compare with: with a warm-up, the first two sample from the untrained model.
START_STEPS = 2
# Distance of a streak's mean from the past. A streak is selected for being low, so that two standard errors are too
# few: simulated runs of constant accuracy with 4 questions a step then raised alarms
# (tests/sdpo/runs/test_guard_rules.py).
STANDARD_ERRORS = 4.0
# Share of its past from which accuracy counts as not fallen.
HELD = 0.75


@dataclass(frozen=True)
class Record:
    """State of one metric: its past, and its streak of steps that are out of bounds."""

    steps: int = 0
    total: float = 0.0
    squared_changes: float = 0.0
    last: float = 0.0
    streak: int = 0
    streak_total: float = 0.0
    accuracy_total: float = 0.0
    """Sum of training accuracy over the streak."""
    accuracy_past: float = 0.0
    """Mean training accuracy before the streak."""
    told: bool = False
    """True once its event is reported, under the name that checkpoints on disk have for it."""

    @property
    def past(self) -> float:
        return self.total / self.steps

    @property
    def noise(self) -> float:
        """Standard deviation of a step, from the changes between neighbours, which a trend does not inflate."""
        return math.sqrt(self.squared_changes / max(self.steps - 1, 1) / 2)

    def extended(self, value: float) -> "Record":
        """Return the record with one more step in its past."""
        change = (value - self.last) ** 2 if self.steps else 0.0
        return Record(self.steps + 1, self.total + value, self.squared_changes + change, value)

    def ended(self) -> "Record":
        """Return the record with its streak moved to its past."""
        if not self.streak:
            return self
        mean = self.streak_total / self.streak
        return Record(self.steps + self.streak, self.total + self.streak_total, self.squared_changes, mean)


@dataclass
class Guard:
    """State of all metrics. Call `observe` with every step in turn; `state` holds everything as plain values."""

    config: GuardConfig
    records: dict[str, Record] = field(default_factory=dict)
    best_validation: float | None = None
    validation_reported: bool = False

    def observe(self, step: int, metrics: Mapping[str, Any]) -> list[Event]:
        """Return what is wrong at this step, each reason once for as long as it lasts."""
        events = [
            Event(step, name, f"step {step}: {name} is {metrics[name]}.")
            for name in FINITE
            if name in metrics and not math.isfinite(metrics[name])
        ]
        # Accuracy comes last: the other metrics are compared with the accuracy before this step.
        accuracy = metrics.get(ACCURACY)
        for limits in reversed(bounds(self.config)):
            # A number that is not finite would be a past that nothing can be compared with.
            if accuracy is not None and math.isfinite(accuracy) and math.isfinite(metrics.get(limits.metric, math.nan)):
                events += self._observe(step, limits, float(metrics[limits.metric]), float(accuracy))
        return events + self._validate(step, metrics)

    @property
    def doubts(self) -> bool:
        """True while a metric is out of bounds, for however few steps: a checkpoint of now is not a good one."""
        return self.validation_reported or any(
            each.metric in self.records and self._is_harm(each, self.records[each.metric])
            for each in bounds(self.config)
        )

    def _observe(self, step: int, limits: Bounds, value: float, accuracy: float) -> list[Event]:
        record = self.records.get(limits.metric, Record())
        if record.steps < START_STEPS or not limits.is_out(value, record.past):
            self.records[limits.metric] = record.ended().extended(value)
            return []
        record = replace(
            record,
            streak=record.streak + 1,
            streak_total=record.streak_total + value,
            accuracy_total=record.accuracy_total + accuracy,
            accuracy_past=record.accuracy_past if record.streak else self.records[ACCURACY].past,
        )
        is_alarm = not record.told and self._is_alarm(limits, record)
        self.records[limits.metric] = replace(record, told=record.told or is_alarm)
        return [Event(step, limits.metric, self._sentence(step, limits, record))] if is_alarm else []

    def _is_alarm(self, limits: Bounds, record: Record) -> bool:
        if record.streak < self.config.guard_patience:
            return False
        distance = abs(record.streak_total / record.streak - record.past)
        if distance <= STANDARD_ERRORS * record.noise / math.sqrt(record.streak):
            return False
        return self._is_harm(limits, record)

    def _is_harm(self, limits: Bounds, record: Record) -> bool:
        """Return True if the metric is out of bounds and accuracy no excuse."""
        if not record.streak:
            return False
        return not limits.excused or record.accuracy_total / record.streak < HELD * record.accuracy_past

    def _sentence(self, step: int, limits: Bounds, record: Record) -> str:
        mean = record.streak_total / record.streak
        text = (
            f"step {step}: {limits.words} is {mean:.3g} over the last {record.streak} steps, after {record.past:.3g} "
            f"over the {record.steps} steps before"
        )
        if limits.excused:
            now = record.accuracy_total / record.streak
            text += f", and training accuracy fell from {record.accuracy_past:.2f} to {now:.2f}"
        return text + "."

    def _validate(self, step: int, metrics: Mapping[str, Any]) -> list[Event]:
        """Compare the mean over data sources with its best; one validation is enough, as it has many answers."""
        values = [float(metrics[name]) for name in metrics if name.startswith(VALIDATION) and "/mean@" in name]
        if not values:
            return []
        value = sum(values) / len(values)
        best = self.best_validation = max(value, self.best_validation or value)
        fell = value < self.config.guard_fall * best and best - value > VALIDATION_MARGIN
        is_new, self.validation_reported = fell and not self.validation_reported, fell
        text = f"step {step}: validation is {value:.2f}, after {best:.2f} at its best."
        return [Event(step, VALIDATION, text)] if is_new else []

    @property
    def state(self) -> dict[str, Any]:
        """State as plain values, for a checkpoint."""
        return {
            "records": {name: asdict(record) for name, record in self.records.items()},
            "best_validation": self.best_validation,
            "validation_told": self.validation_reported,
        }

    @classmethod
    def resumed(cls, config: GuardConfig, state: Mapping[str, Any]) -> "Guard":
        """Continue from the `state` of a checkpoint."""
        records = {name: Record(**record) for name, record in state["records"].items()}
        return cls(config, records, state["best_validation"], state["validation_told"])
