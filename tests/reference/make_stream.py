"""Make stream.npz of the folder of a run: python -m tests.reference.make_stream RUN MODEL STEPS

Of each attempt the token ids of its prompt, of the teacher's prompt and of its response, and its advantage. Token ids
are renumbered, as a tiny model then needs a few hundred of them only, from `FIRST` on: verl gives the embedding of the
padding token no gradient. Of each group the first attempts.
"""

import sys
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer

from tests.reference.stream import FILE
from verl.sdpo.runs import dump_schema

# Special tokens of tests/e2e/tiny.py come before.
FIRST = 3
ATTEMPTS = 2


def make(run: Path, model: str, num_steps: int) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)

    def chat(text: str) -> list[int]:
        messages = [{"role": "user", "content": text}]
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]

    steps, advantages = [], []
    sequences: dict[str, list[list[int]]] = {"prompt": [], "teacher_prompt": [], "response": []}
    for step in range(1, num_steps + 1):
        records = dump_schema.read(run / "rollouts" / dump_schema.SUBFOLDER / f"{step}.parquet")
        scores: dict[str, list[float]] = {}
        for record in records:
            scores.setdefault(record["uid"], []).append(record["score"])
        records = [record for record in records if record["attempt"] < ATTEMPTS]
        for record in sorted(records, key=lambda record: (record["uid"], record["attempt"])):
            steps.append(step)
            advantages.append(record["score"] - np.mean(scores[record["uid"]]))
            sequences["prompt"].append(chat(record["question"]))
            sequences["teacher_prompt"].append(chat(record["teacher_prompt"]) if record["has_target"] else [])
            sequences["response"].append([*tokenizer.encode(record["response"]), tokenizer.eos_token_id])
    used = sorted({token for rows in sequences.values() for row in rows for token in row})
    number = {token: FIRST + i for i, token in enumerate(used)}
    arrays = {"step": np.array(steps, np.uint8), "advantage": np.array(advantages, np.float32)}
    for name, rows in sequences.items():
        arrays[name] = np.array([number[token] for row in rows for token in row], np.uint16)
        arrays[f"{name}_lens"] = np.array([len(row) for row in rows], np.uint16)
    np.savez_compressed(FILE, vocab_size=FIRST + len(used), **arrays)
    print(f"{len(steps)} attempts, {len(used)} different tokens, {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    make(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
