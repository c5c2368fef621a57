"""Pack the samples of one or several runs, small enough for a page.

Texts are numbered, since questions, prompts and tokens repeat; numbers are whole hundredths.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from verl.sdpo.runs import dump_schema as dump
from verl.sdpo.runs.reader import Run

# For all runs together: a page stays below 10 MB.
MAX_TOKENS = 300_000
FLAGS = ("has_target", "prompt_truncated", "solved", "graded", "response_cut")
PER_RESPONSE = ("uid", "attempt", "demonstration_attempt", "score")
TEXTS = ("question", "teacher_prompt", "feedback")


class Texts:
    """Numbers for texts, in the order in which they are first seen."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def __call__(self, text: str | None) -> int | None:
        return None if text is None else self.numbers.setdefault(text, len(self.numbers))


def pack(methods: Mapping[str, Sequence[Run]], max_tokens: int = MAX_TOKENS) -> dict[str, Any]:
    """Return `{texts, alternatives, quantities, runs: [{name, steps: {STEP: [sample]}, left_out}]}`.

    Steps are left out evenly, but never the first and the last, where all of them would be too many tokens.
    """
    texts, packed = Texts(), []
    runs = [(method, run) for method, members in methods.items() for run in members]
    for method, run in runs:
        files = run.sample_files
        kept = _affordable(run, max_tokens // len(runs))
        steps = {step: [sample(each, texts) for each in group] for step, group in kept.items()}
        name = f"{method}, seed {run.seed}" if run.seed is not None else method
        packed.append({"name": name, "steps": steps, "left_out": len(files) - len(steps)})
    known = {"texts": list(texts.numbers), "alternatives": dump.NUM_OBSERVED, "quantities": dump.PER_TOKEN}
    return {**known, "runs": packed}


def _affordable(run: Run, budget: int) -> dict[int, list[dict[str, Any]]]:
    """Return step to samples, for as many steps as the budget of tokens allows: first, last, then halving the gaps."""
    kept: dict[int, list[dict[str, Any]]] = {}
    for step in _spread_out(list(run.sample_files)):
        samples = run.samples(step)
        size = sum(len(each["tokens"]) for each in samples)
        if kept and size > budget:
            break
        budget -= size
        kept[step] = samples
    return dict(sorted(kept.items()))


def _spread_out(steps: Sequence[int]) -> list[int]:
    """Order steps so that any prefix is spread out: the last, the first, then the middle of the widest gap."""
    order = list(dict.fromkeys([*steps[-1:], *steps[:1]]))
    gaps = [(0, len(steps) - 1)]
    while gaps:
        start, end = max(gaps, key=lambda gap: gap[1] - gap[0])
        gaps.remove((start, end))
        middle = (start + end) // 2
        if start < middle < end:
            order.append(steps[middle])
            gaps += [(start, middle), (middle, end)]
    return order


def sample(record: Mapping[str, Any], texts: Texts) -> dict[str, Any]:
    """Pack one response."""
    made = {name: record.get(name) for name in PER_RESPONSE}
    made |= {name: texts(record.get(name)) for name in TEXTS}
    made |= {name: record.get(name) for name in FLAGS}
    made["tokens"] = [texts(token) for token in record["tokens"]]
    for name in dump.PER_TOKEN:
        made[name] = _hundredths(record.get(name))
    for model in dump.MODELS:
        best = record.get(f"{model}_best")
        made[f"{model}_best"] = None if best is None else [texts(text) for text in best]
        made[f"{model}_best_log_probs"] = _hundredths(record.get(f"{model}_best_log_probs"))
    return made


def _hundredths(values: Sequence[float | None] | None) -> list[int | None] | None:
    return None if values is None else [None if value is None else round(100 * value) for value in values]
