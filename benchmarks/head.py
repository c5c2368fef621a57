"""Memory and time of one update's language-model heads: student forward and backward, teacher forward, loss.

    python -m benchmarks.head [--variants lean eager lean-all eager-all] [--json FILE]

Variants: lean (`ChunkedHead`), eager (`EagerHead`), both at response positions; lean-all and eager-all, where all of
the vocabulary is compared; authors (the eager head at every place of the row, prompt included, as in their code);
floor (the gradients of weight and hidden states alone). Every variant runs in a process of its own, forked from this
one: its first step for the peak of resident memory, the second for the time; the least of the repeats.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.memory import MIB, PeakMemory
from benchmarks.process import measured
from verl.sdpo.comparison import ComparingHead
from verl.sdpo.head import HEADS, Projection
from verl.sdpo.objective import Denominators, Divergence, Tokens, token_weights

VARIANTS = ("floor", "lean", "eager", "authors", "lean-all", "eager-all")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Shape:
    """SmolLM2-135M's head, and a row of the quickstart made long."""

    response: int = 1024
    prompt: int = 1024
    vocabulary: int = 49152
    hidden: int = 576
    topk: int = 100


def make_step(variant: str, shape: Shape, dtype: torch.dtype) -> Callable[[], None]:
    """Call that is measured; its inputs exist already."""
    generator = torch.Generator().manual_seed(0)
    tokens = shape.prompt + shape.response if variant == "authors" else shape.response
    hidden = [torch.randn(tokens, shape.hidden, generator=generator).to(dtype) for _ in range(2)]
    embedding = torch.nn.Linear(shape.hidden, shape.vocabulary, bias=False, dtype=dtype)
    if variant == "floor":

        def gradients_alone() -> None:
            embedding.weight.grad = torch.ones_like(embedding.weight)
            hidden[0].grad = torch.ones_like(hidden[0])

        return gradients_alone
    reads_all = variant.endswith("-all")
    objective = Divergence(Divergence.Config(distillation_topk=None if reads_all else shape.topk))
    kind = HEADS["chunked" if variant.startswith("lean") else "eager"]
    head = kind(torch.randint(shape.vocabulary, (tokens,), generator=generator), objective.support)
    is_response = torch.arange(tokens) >= tokens - shape.response
    mask = Tokens.of(torch.ones(1, shape.response, dtype=torch.bool))
    weights = token_weights(mask, "token-mean", Denominators(shape.response, 1))
    hidden[0].requires_grad_()

    def step_by_chunks() -> None:
        teacher = Projection.taken(hidden[1], embedding)
        compare = partial(objective.compare, tokens=mask)
        comparison = ComparingHead(head, head, teacher, is_response, compare)(hidden[0], embedding)
        objective.weighted(comparison, mask, weights)[0].backward()

    def step() -> None:
        student = head(hidden[0], embedding)
        with torch.no_grad():
            teacher = replace(head, support_indices=student.support_indices)(hidden[1], embedding)
        loss, _ = objective(student.at(is_response), teacher.at(is_response), mask, weights)
        loss.backward()

    return step_by_chunks if variant == "lean-all" else step


def measure(variant: str, dtype: str, shape: Shape, connection) -> None:
    step = make_step(variant, shape, DTYPES[dtype])
    with PeakMemory() as memory:
        step()
    # The first makes threads, kernels and gradients, which stay.
    start = time.perf_counter()
    step()
    seconds = time.perf_counter() - start
    connection.send((memory.bytes / MIB, seconds))


def best_of(variant: str, dtype: str, shape: Shape, repeats: int) -> dict:
    peaks, seconds = zip(*(measured(measure, variant, dtype, shape, start="fork") for _ in range(repeats)), strict=True)
    return {"variant": variant, "dtype": dtype, "peak_mib": round(min(peaks), 1), "seconds": round(min(seconds), 3)}


def table(rows: list[dict]) -> str:
    lines = ["| variant | dtype | peak above inputs, MiB | seconds |", "|---|---|---:|---:|"]
    lines += [f"| {row['variant']} | {row['dtype']} | {row['peak_mib']:.0f} | {row['seconds']:.2f} |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS[:4])
    parser.add_argument("--repeats", type=int, default=1)
    args = parser.parse_args()
    shape = Shape()
    rows = [best_of(variant, dtype, shape, args.repeats) for dtype in DTYPES for variant in args.variants]
    print(f"{shape}, {torch.get_num_threads()} threads\n\n{table(rows)}")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
