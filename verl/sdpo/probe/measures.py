"""Measures, table and verdict of a probe: is the teacher better than the student, and with which context?

Distillation pulls the student towards the teacher's answers. So a teacher that answers no better than the student is no
help, and where the two agree there is nothing to learn. Plain Python and numpy: `run.py` samples and grades,
`models.py` holds the models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from verl.sdpo.runs import statistics

# Keys of the block for each context. A threshold that no score reaches leaves no demonstration.
CONTEXTS: Mapping[str, Mapping[str, Any]] = {
    "configured": {},
    "demonstration": {"include_environment_feedback": False},
    "feedback": {"include_environment_feedback": True, "success_reward_threshold": float("inf")},
    "both": {"include_environment_feedback": True, "environment_feedback_only_without_solution": False},
}
# Probability below which the gradient of JSD and reverse KL towards a token is as much smaller than forward KL's.
RARE = 0.01


@dataclass(frozen=True)
class Answer:
    """A graded answer of student or teacher."""

    question: int
    success: bool
    outcome: str
    """Score and feedback as one text, equal for equal behaviour."""


@dataclass(frozen=True)
class TokenScores:
    """Token scores of a student's attempt under both prompts; every field (T,)."""

    divergence: np.ndarray
    """Divergence with the objective's alpha over the vocabulary, nats."""
    differs: np.ndarray
    """bool: the teacher's most likely token is not the student's."""
    student_probability: np.ndarray
    """The student's probability of the teacher's most likely token."""
    in_topk: np.ndarray
    """bool: that token is in the student's top-k support."""


@dataclass(frozen=True)
class Interval:
    """A mean over questions with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Row:
    """Measures of one context."""

    context: str
    answers: int
    questions: int
    coverage: float
    """Share of the student's attempts that have this context."""
    student: float
    """Student's accuracy at the same questions, each weighted by the teacher's answers to it."""
    teacher: Interval
    gain: Interval
    same: float
    """Share of the teacher's answers with score and feedback of the attempt in its place (Table 6)."""
    divergence: float
    thirds: tuple[float, float, float]
    """Shares of the divergence in the first, second and last third of the responses."""
    differs: float
    """Share of tokens where the teacher's most likely token is another."""
    rare: float
    """Share of those with a student probability below `RARE`."""
    outside: float
    """Share of those outside the student's top-k support."""


def interval(values: Sequence[float], questions: Sequence[int], seed: int = 0) -> Interval:
    """Return the mean of values with a bootstrap over the questions that they belong to."""
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
    """Measure a context.

    Args:
        attempts: all attempts of the student.
        pairs: number of an attempt, and the teacher's answer in its place.
        scores: token scores of those attempts.
    """
    rates: dict[int, list[bool]] = {}
    for attempt in attempts:
        rates.setdefault(attempt.question, []).append(attempt.success)
    asked = [answer.question for _, answer in pairs]
    student = [sum(rates[question]) / len(rates[question]) for question in asked]
    teacher = [float(answer.success) for _, answer in pairs]
    same = [answer.outcome == attempts[number].outcome for number, answer in pairs]
    differs = np.concatenate([each.differs for each in scores])
    probability = np.concatenate([each.student_probability for each in scores])[differs]
    outside = ~np.concatenate([each.in_topk for each in scores])[differs]
    return Row(
        context,
        answers=len(pairs),
        questions=len(set(asked)),
        coverage=coverage,
        student=float(np.mean(student)),
        teacher=interval(teacher, asked),
        gain=interval([one - other for one, other in zip(teacher, student, strict=True)], asked),
        same=float(np.mean(same)),
        divergence=float(np.concatenate([each.divergence for each in scores]).mean()),
        thirds=_thirds(scores),
        differs=float(differs.mean()),
        rare=float((probability < RARE).mean()) if len(probability) else 0.0,
        outside=float(outside.mean()) if len(outside) else 0.0,
    )


def _thirds(scores: Sequence[TokenScores]) -> tuple[float, float, float]:
    sums = np.zeros(3)
    for each in scores:
        third = np.arange(len(each.divergence)) * 3 // max(len(each.divergence), 1)
        np.add.at(sums, third, each.divergence)
    first, second, last = (sums / sums.sum() if sums.sum() else sums).tolist()
    return first, second, last


def context_table(rows: Sequence[Row]) -> str:
    """Render the contexts in Markdown, best gain first."""
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
    """Judge in sentences if this model can teach itself on this data, which context helps, and what to change.

    Args:
        rows: contexts that any attempt has.
        alpha: alpha of the objective.
        compares_distributions: False for an objective on single tokens, which has reverse KL alone and no top-k.
    """
    if not rows:
        return [
            "NOTHING TEACHES: no attempt was solved by a sibling, and none came with feedback. Sample more attempts, "
            "take easier questions, or let the reward function return feedback."
        ]
    best = max(rows, key=lambda row: row.gain.mean)
    own = next((row for row in rows if row.context == "configured"), best)
    sentences = [_judge(own)]
    if best is not own and best.gain.mean > own.gain.mean:
        keys = " ".join(f"{key}={value!r}" for key, value in contexts[best.context].items())
        sentences.append(
            f"Of what was tried `{best.context}` helps most: {best.gain} at the questions that have it. Keys: {keys}."
        )
    harmful = [row.context for row in rows if row.gain.high < 0]
    if harmful:
        sentences.append(f"Worse than no help: {', '.join(harmful)}. Do not show these.")
    if own.coverage < 0.5:
        sentences.append(
            f"Only {own.coverage:.0%} of the attempts have a teacher context: raise rollout.n, show feedback, "
            "take easier questions, or set data.refill_until_target."
        )
    if not compares_distributions:
        return sentences
    if alpha > 0 and own.differs > 0 and own.rare > 0.5:
        sentences.append(
            f"At {own.rare:.0%} of the tokens that the teacher would replace the student is sure of its own and gives "
            f"the teacher's less than {RARE:.0%}. With alpha={alpha} the gradient carries that probability and nearly "
            "vanishes there: take alpha=0.0 (forward KL)."
        )
    if own.outside > 0.1:
        sentences.append(
            f"{own.outside:.0%} of the teacher's other tokens are outside the student's top-k and are compared as one "
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
