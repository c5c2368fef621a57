"""Does the self-teacher know better than the student, and with what it is shown: measures, table and verdict.

Distillation pulls the student towards what the teacher would write. So a teacher that answers no better than the
student is no help, and where the two agree there is nothing to learn. Plain Python and numpy: `probe_run.py` samples
and grades, `probe_models.py` holds the models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from verl.sdpo.runs import statistics

# What the teacher may be shown, as keys of the block. A threshold that no score reaches leaves no demonstration.
CONTEXTS: Mapping[str, Mapping[str, Any]] = {
    "configured": {},
    "demonstration": {"include_environment_feedback": False},
    "feedback": {"include_environment_feedback": True, "success_reward_threshold": float("inf")},
    "both": {"include_environment_feedback": True, "environment_feedback_only_without_solution": False},
}
# Below it the gradient of JSD and reverse KL towards a token is that much smaller than forward KL's.
RARE = 0.01


@dataclass(frozen=True)
class Answer:
    """A graded answer of student or teacher."""

    question: int
    success: bool
    outcome: str
    """What the environment said, equal for equal behaviour."""


@dataclass(frozen=True)
class TokenScores:
    """The student's attempt, token by token, under the teacher's prompt; every field (T,)."""

    divergence: np.ndarray
    """Nats, as the objective's alpha has it, over the whole vocabulary."""
    differs: np.ndarray
    """bool: the teacher's most likely token is not the student's."""
    students_belief: np.ndarray
    """The student's probability of the teacher's most likely token."""
    in_topk: np.ndarray
    """bool: that token is among the student's top-k, the tokens that are compared."""


@dataclass(frozen=True)
class Interval:
    """A mean over questions, and where 95 % of resamples of the questions have it."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Row:
    """One context."""

    context: str
    answers: int
    questions: int
    coverage: float
    """Share of the student's attempts that have a teacher then."""
    student: float
    """The student's accuracy at the same questions, a question as often as the teacher was asked it."""
    teacher: Interval
    gain: Interval
    same: float
    """Share of the teacher's answers with the outcome of the attempt that it was shown or was to correct (Table 6)."""
    divergence: float
    thirds: tuple[float, float, float]
    """Shares of the divergence in the first, second and last third of the responses."""
    differs: float
    """Share of tokens where the teacher would write another one."""
    rare: float
    """Share of those to which the student gives less than `RARE`."""
    outside: float
    """Share of those that are not compared, being outside the student's top-k."""


def interval(values: Sequence[float], questions: Sequence[int], seed: int = 0) -> Interval:
    """Mean of values with a bootstrap over the questions that they belong to."""
    index = {question: place for place, question in enumerate(dict.fromkeys(questions))}
    sums, counts = np.zeros(len(index)), np.zeros(len(index))
    for value, question in zip(values, questions, strict=True):
        sums[index[question]] += value
        counts[index[question]] += 1
    drawn = statistics.resample(np.random.default_rng(seed), len(index))
    low, high = statistics.interval(drawn @ sums / (drawn @ counts))
    return Interval(float(sums.sum() / counts.sum()), float(low), float(high))


def summarise(
    context: str,
    *,
    attempts: Sequence[Answer],
    pairs: Sequence[tuple[int, Answer]],
    scores: Sequence[TokenScores],
    coverage: float,
) -> Row:
    """What a context is worth.

    Args:
        attempts: all of the student's.
        pairs: number of an attempt, and the teacher's answer in its place.
        scores: of those attempts.
    """
    rates: dict[int, list[bool]] = {}
    for attempt in attempts:
        rates.setdefault(attempt.question, []).append(attempt.success)
    asked = [answer.question for _, answer in pairs]
    student = [sum(rates[question]) / len(rates[question]) for question in asked]
    teacher = [float(answer.success) for _, answer in pairs]
    same = [answer.outcome == attempts[number].outcome for number, answer in pairs]
    differs = np.concatenate([each.differs for each in scores])
    belief = np.concatenate([each.students_belief for each in scores])[differs]
    outside = ~np.concatenate([each.in_topk for each in scores])[differs]
    return Row(
        context,
        answers=len(pairs),
        questions=len(set(asked)),
        coverage=coverage,
        student=float(np.mean(student)),
        teacher=interval(teacher, asked),
        gain=interval([ours - theirs for ours, theirs in zip(teacher, student, strict=True)], asked),
        same=float(np.mean(same)),
        divergence=float(np.concatenate([each.divergence for each in scores]).mean()),
        thirds=_thirds(scores),
        differs=float(differs.mean()),
        rare=float((belief < RARE).mean()) if len(belief) else 0.0,
        outside=float(outside.mean()) if len(outside) else 0.0,
    )


def _thirds(scores: Sequence[TokenScores]) -> tuple[float, float, float]:
    sums = np.zeros(3)
    for each in scores:
        third = np.arange(len(each.divergence)) * 3 // max(len(each.divergence), 1)
        np.add.at(sums, third, each.divergence)
    first, second, last = (sums / sums.sum() if sums.sum() else sums).tolist()
    return first, second, last


def table(rows: Sequence[Row]) -> str:
    """In Markdown, best gain first."""
    lines = [
        "| the teacher reads | answers (questions) | attempts that have it | student | teacher | gain | same outcome "
        "| divergence | in thirds | other token | of it < 1 % |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in sorted(rows, key=lambda row: -row.gain.mean):
        thirds = " ".join(f"{share:.2f}" for share in row.thirds)
        lines.append(
            f"| {row.context} | {row.answers} ({row.questions}) | {row.coverage:.2f} | {row.student:.2f} | "
            f"{row.teacher} | {row.gain} | {row.same:.2f} | {row.divergence:.3f} | {thirds} | {row.differs:.2f} | "
            f"{row.rare:.2f} |"
        )
    return "\n".join(lines)


def verdict(
    rows: Sequence[Row], contexts: Mapping[str, Mapping[str, Any]], alpha: float, compares_distributions: bool = True
) -> list[str]:
    """Sentences: whether this model can teach itself on this data, which context helps, and what to change.

    Args:
        rows: of the contexts in which anything teaches.
        alpha: of the objective.
        compares_distributions: whether it does. The others know the reverse KL alone, and no top-k.
    """
    if not rows:
        return [
            "NOTHING TEACHES: no attempt was solved by a sibling, and none came with feedback. Sample more attempts, "
            "take easier questions, or let the reward function return feedback."
        ]
    best = max(rows, key=lambda row: row.gain.mean)
    ours = next((row for row in rows if row.context == "configured"), best)
    sentences = [_judge(ours)]
    if best is not ours and best.gain.mean > ours.gain.mean:
        keys = " ".join(f"{key}={value!r}" for key, value in contexts[best.context].items())
        sentences.append(
            f"Of what was tried `{best.context}` helps most: {best.gain} at the questions that have it. Keys: {keys}."
        )
    harmful = [row.context for row in rows if row.gain.high < 0]
    if harmful:
        sentences.append(f"Worse than no help: {', '.join(harmful)}. Do not show these.")
    if ours.coverage < 0.5:
        sentences.append(
            f"Only {ours.coverage:.0%} of the attempts have a teacher: raise rollout.n, show feedback, take easier "
            "questions, or set data.refill_until_target."
        )
    if not compares_distributions:
        return sentences
    if alpha > 0 and ours.differs > 0 and ours.rare > 0.5:
        sentences.append(
            f"At {ours.rare:.0%} of the tokens that the teacher would replace the student is sure of its own and gives "
            f"the teacher's less than {RARE:.0%}. With alpha={alpha} the gradient carries that probability and nearly "
            "vanishes there: take alpha=0.0 (forward KL)."
        )
    if ours.outside > 0.1:
        sentences.append(
            f"{ours.outside:.0%} of the teacher's other tokens are outside the student's top-k and are compared as one "
            "tail only: raise distillation_topk."
        )
    return sentences


def _judge(row: Row) -> str:
    teacher = f"the teacher is right in {row.teacher}"
    what = f"`{row.context}`: {teacher}, the student at the same questions in {row.student:.2f}"
    if row.gain.low > 0:
        return f"YES, this model can teach itself on this data. {what}."
    if row.gain.high < 0:
        return f"NO, this model answers worse with what it is shown than without. {what}."
    return f"UNCLEAR: the difference may be noise. {what}. Probe more questions."


def to_json(rows: Sequence[Row], sentences: Sequence[str]) -> dict[str, Any]:
    return {"contexts": [asdict(row) for row in rows], "verdict": list(sentences)}
