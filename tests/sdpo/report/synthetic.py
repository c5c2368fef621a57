"""Runs made up for the tests, laid out and shaped as the quickstart's are."""

import json
import random
from pathlib import Path

import yaml

from verl.sdpo.runs import dump_schema as dump

WORDS = [f" word{i}" for i in range(400)] + ["\n", " <b>", "é", "`"]


def make_run(
    folder: Path,
    *,
    algorithm: str = "sdpo",
    seed: int = 0,
    steps: int = 4,
    groups: int = 3,
    members: int = 4,
    tokens: int = 12,
    gain: float = 0.1,
    settings: dict | None = None,
) -> Path:
    """A run whose accuracy rises by `gain` a validation. settings: of the block self_distillation."""
    rng = random.Random(seed)
    (folder / "heldout").mkdir(parents=True)
    (folder / "rollouts" / "insight").mkdir(parents=True)
    (folder / "hydra" / ".hydra").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"algorithm": algorithm, "seed": seed, "steps": steps}))
    actor = {"policy_loss": {"loss_mode": algorithm}, "self_distillation": settings or {}}
    config = {"actor_rollout_ref": {"actor": actor}, "vars": {"seed": seed}}
    (folder / "hydra" / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
    lines = []
    for step in range(steps + 1):
        accuracy = min(0.2 + gain * step, 1.0)
        answers = [
            {
                "input": f"question {i}",
                "output": f"answer {rng.random() < 0.5}",
                "score": 1.0,
                "step": step,
                "uid": f"u{i}_{j}_0",
            }
            | {"acc": float(rng.random() < accuracy)}
            for i in range(16)
            for j in range(2)
        ]
        (folder / "heldout" / f"{step}.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in answers))
        measured = sum(answer["acc"] for answer in answers) / len(answers)
        data = {"val-core/task/acc/mean@2": measured}
        if step:
            data |= training_metrics(step, rng)
            records = [record(step, group, member, tokens, rng) for group in range(groups) for member in range(members)]
            dump.write(folder / "rollouts" / "insight" / f"{step}.parquet", records)
        lines.append(json.dumps({"step": step, "data": data}))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def training_metrics(step: int, rng: random.Random) -> dict[str, float]:
    return {
        "critic/score/mean": rng.random(),
        "response_length/mean": 30 + step,
        "actor/pg_loss": 0.1 / step,
        "actor/grad_norm": 1.0,
        "actor/lr": 1e-6,
        "self_distillation/kl": 0.3 / step,
        "self_distillation/student_entropy": 0.5,
        "self_distillation/teacher_entropy": 0.4,
        "self_distillation/teacher_student_distance": 1e-4 * step,
        "self_distillation/reprompt_sample_fraction": 0.9,
        "self_distillation/tail_mass": 1e-3,
        "timing_s/step": 1800.0,
        "timing_s/gen": 10.0,
        "timing_s/update_actor": 20.0,
        "perf/max_memory_allocated_gb": 5.0,
    }


def record(step: int, group: int, member: int, tokens: int, rng: random.Random) -> dict:
    """Member 0 solves its question; of every other group the last member has no target."""
    has_target = not (group % 2 and member == 3)
    texts = [rng.choice(WORDS) for _ in range(tokens)]
    made = {
        "step": step,
        "uid": f"group{group}",
        "attempt": member,
        "question": f"Question {group} of step {step}?",
        "teacher_prompt": f"Question {group} of step {step}?\nCorrect solution: {texts}",
        "has_target": has_target,
        "prompt_truncated": member == 2,
        "demonstration": "right" if has_target and member else None,
        "demonstration_attempt": 0 if has_target and member else None,
        "response": "".join(texts),
        "feedback": f"Wrong: <i>{member}</i>" if member else None,
        "score": float(member == 0),
        "solved": member == 0,
        "graded": True,
        "response_cut": member == 1,
        "tokens": texts,
    }
    if has_target:
        for name in dump.PER_TOKEN:
            made[name] = [rng.gauss(0, 1) if name == "log_ratio" else rng.random() for _ in range(tokens)]
        for model in dump.MODELS:
            made[f"{model}_best"] = [rng.choice(WORDS) for _ in range(3 * tokens)]
            made[f"{model}_best_log_probs"] = [-5 * rng.random() for _ in range(3 * tokens)]
    return made
