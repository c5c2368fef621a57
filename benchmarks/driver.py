"""Time what the driver does between the last response and the update, while the accelerators wait.

    python -m benchmarks.driver [--model outputs/quickstart/model] [--questions 32] [--rollouts 8] [--tokens 8192]
        [--json FILE]

Rollouts are words, half of them successes and half with feedback, so that every teacher prompt holds a demonstration of
`--tokens` tokens. Phases: decode (all responses), teacher rows (prompts, chat template, tokenising, cutting to
`max_reprompt_len`), jagged (the tensor that is written to TransferQueue), order (balance of ranks). TransferQueue
itself is not measured. The least of `--repeats` counts.
"""

import argparse
import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

WORDS = ("the", "sum", "of", "two", "lists", "is", "found", "by", "adding", "return", "for", "while", "x", "+")
RANKS = 4


def make_samples(tokenizer, tokenize_chat, questions: int, rollouts: int, prompt: int, tokens: int) -> list:
    """Whole groups of samples as the agent loop leaves them, without text: `decode` makes that."""
    import torch

    from verl.sdpo.context import Rollout
    from verl.sdpo.teacher_rows import Sample

    rng = random.Random(0)

    def text(length: int) -> str:
        ids = tokenizer.encode(" ".join(rng.choices(WORDS, k=length)), add_special_tokens=False)
        return tokenizer.decode(ids[:length])

    samples = []
    for question in range(questions):
        messages = [{"role": "user", "content": text(prompt)}]
        prompt_ids = torch.tensor(tokenize_chat(messages, None))
        for attempt in range(rollouts):
            response = text(tokens)
            is_right = attempt % 2 == 0
            reward = {} if is_right else {"feedback": "The first test fails: expected 3, got 4."}
            rollout = Rollout(f"q{question}", attempt, messages, "", float(is_right), reward)
            ids = torch.tensor(tokenizer.encode(response, add_special_tokens=False))
            samples.append(Sample(rollout, prompt_ids, ids))
    return samples


def measure(model: str, questions: int, rollouts: int, prompt: int, tokens: int, repeats: int) -> dict[str, float]:
    """Seconds by phase."""
    from dataclasses import replace

    import torch
    from hydra import compose, initialize_config_module
    from transformers import AutoTokenizer

    from verl.sdpo.config import parse_block
    from verl.sdpo.trainer.balance import update_order
    from verl.sdpo.trainer.samples import make_row_builder

    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("sdpo", ["machine=cpu", f"actor_rollout_ref.model.path={model}"])
    tokenizer = AutoTokenizer.from_pretrained(model)
    builder = make_row_builder(config, parse_block(config), tokenizer)
    samples = make_samples(tokenizer, builder.tokenize_chat, questions, rollouts, prompt, tokens)
    results: dict[str, list[float]] = {}

    def timed(phase: str, action: Callable):
        start = time.perf_counter()
        result = action()
        results.setdefault(phase, []).append(time.perf_counter() - start)
        return result

    for _ in range(repeats):
        responses = [sample.response_ids for sample in samples]
        texts = timed("decode", lambda ids=responses: tokenizer.batch_decode(ids, skip_special_tokens=True))
        written = [
            replace(sample, rollout=replace(sample.rollout, response=text))
            for sample, text in zip(samples, texts, strict=True)
        ]
        rows = timed("teacher rows", lambda written=written: builder.build(written, step=1))
        timed("jagged", lambda rows=rows: torch.nested.as_nested_tensor(rows.input_ids, layout=torch.jagged))
        timed(
            "order",
            lambda all=written, rows=rows: update_order(
                all, rows, reads_every_row=False, teacher_passes=1, num_ranks=RANKS, seed=1
            ),
        )
    # A benchmark of rows that know nothing would flatter.
    assert bool(rows.weights.all())
    return {phase: min(seconds) for phase, seconds in results.items()}


def table(seconds: dict[str, float]) -> str:
    lines = ["| phase | seconds |", "|---|---:|", *(f"| {phase} | {value:.2f} |" for phase, value in seconds.items())]
    return "\n".join([*lines, f"| sum | {sum(seconds.values()):.2f} |"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="outputs/quickstart/model", help="for its tokenizer and chat template")
    parser.add_argument("--questions", type=int, default=32)
    parser.add_argument("--rollouts", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=512, help="tokens of a question")
    parser.add_argument("--tokens", type=int, default=8192, help="of a response")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the numbers to this file too")
    args = parser.parse_args()
    os.environ.setdefault("VERL_PLATFORM", "cpu")
    shape = {name: getattr(args, name) for name in ("questions", "rollouts", "prompt", "tokens")}
    seconds = measure(args.model, **shape, repeats=args.repeats)
    print(f"{shape}, {os.cpu_count()} cores\n\n{table(seconds)}")
    if args.json:
        args.json.write_text(json.dumps({**shape, "seconds": seconds}, indent=1))


if __name__ == "__main__":
    main()
