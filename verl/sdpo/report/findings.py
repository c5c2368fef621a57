"""Sentences on what went wrong in a run."""

import math
from collections.abc import Sequence

from verl.sdpo.runs.reader import Run


def findings(run: Run) -> list[str]:
    """Return sentences for a human, the gravest first; none where nothing was noticed."""
    return [
        *(f"Guard ({event['action']}): {event['sentence']}" for event in run.guard_events),
        *_incomplete(run),
        *_not_a_number(run),
        *_without_context(run),
        *_share(
            run,
            "self_distillation/grader_error_fraction",
            "samples could not be graded: their rewards mean nothing. verl's log has the grader's error",
        ),
        *_share(
            run,
            "self_distillation/truncated_reprompt_fraction",
            "teacher prompts were cut to max_reprompt_len: the teacher read part of a demonstration or feedback",
        ),
        *_share(
            run,
            "response_length/clip_ratio",
            "responses were as long as data.max_response_length allows, and most likely cut",
        ),
        *_fell(run),
    ]


def spans(steps: Sequence[int]) -> str:
    """Render 1, 2, 3, 7 as "steps 1-3, 7"."""
    groups: list[list[int]] = []
    for step in steps:
        if groups and step == groups[-1][-1] + 1:
            groups[-1].append(step)
        else:
            groups.append([step])
    texts = [str(group[0]) if len(group) == 1 else f"{group[0]}-{group[-1]}" for group in groups]
    return f"step{'s' if len(steps) > 1 else ''} {', '.join(texts)}"


def _incomplete(run: Run) -> list[str]:
    last = max(run.metrics, default=0)
    if run.seconds_per_step is None:
        return [f"No training step has finished: {', '.join(map(str, run.metrics_files))}."]
    if not run.total_steps or last >= run.total_steps:
        return []
    return [f"The run is at step {last} of {run.total_steps}: still running, or ended before its time."]


def _not_a_number(run: Run) -> list[str]:
    """Find steps whose loss or gradient is not a number, which verl logs as null."""
    trained = [step for step, numbers in run.metrics.items() if "actor/lr" in numbers]
    found = []
    for name in ("actor/pg_loss", "actor/grad_norm"):
        series = run.series(name)
        missing = [step for step in trained if series and not math.isfinite(series.get(step, math.nan))]
        if missing:
            found.append(f"{name} was not a number in {spans(missing)}.")
    return found


def _without_context(run: Run) -> list[str]:
    empty = [step for step, value in run.series("self_distillation/reprompt_sample_fraction").items() if value == 0]
    if not empty:
        return []
    return [
        f"No sample had a demonstration or usable feedback in {spans(empty)}: the teacher taught nothing there. Raise "
        "rollout.n, take easier questions, or let the reward function return feedback."
    ]


def _share(run: Run, metric: str, words: str) -> list[str]:
    found = {step: value for step, value in run.series(metric).items() if value > 0}
    if not found:
        return []
    worst = max(found, key=lambda step: found[step])
    return [f"In {spans(list(found))} up to {found[worst]:.1%} (step {worst}) of the {words}."]


def _fell(run: Run) -> list[str]:
    sentences = []
    for source, curve in run.validations.items():
        best, last = max(curve, key=lambda step: curve[step]), max(curve)
        if curve[last] < 0.9 * curve[best]:
            fall = f"from {curve[best]:.3f} at step {best} to {curve[last]:.3f} at step {last}"
            sentences.append(f"Validation on {source} fell {fall}.")
    return sentences
