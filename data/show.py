"""Look at a dataset before training on it: counts, prompt lengths, answers and one rendered prompt.

python data/show.py datasets/sciknoweval/chemistry/train.parquet --tokenizer Qwen/Qwen3-8B
"""

import os
import sys

if not __package__:
    # Started by its path: `data` is in the repository.
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from tqdm import tqdm

from data.preprocess import read_rows
from data.records import DataError, run

MOST_COMMON = 10


def rows_of(path: str) -> Iterator[dict]:
    """Yield the rows, in verl's columns, of a parquet file, or of a JSON file as `preprocess.py` would write them."""
    if not path.endswith(".parquet"):
        yield from read_rows(path, Path(path).stem)
        return
    if not os.path.isfile(path):
        raise DataError(f"{path} does not exist.")
    for batch in pq.ParquetFile(path).iter_batches(batch_size=32):
        yield from batch.to_pylist()


def answer_of(row: dict) -> str:
    """Return what the distribution counts: the answer, or the number of tests of a code task."""
    truth = row["reward_model"]["ground_truth"]
    if row["ability"] != "code":
        return truth if len(truth) <= 40 else truth[:39] + "…"
    tests = json.loads(truth)
    return f"{len(tests['inputs'])} {tests['testtype']} tests"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", help="a parquet file, or a JSON array or JSON lines of records")
    parser.add_argument("--tokenizer", help="name or folder; without it lengths are in characters")
    parser.add_argument(
        "--max-prompt-length",
        "--max_prompt_length",
        type=int,
        default=2048,
        help="tokens, as in the training config (2048)",
    )
    args = parser.parse_args(argv)
    render, length, unit = _text_tools(args.tokenizer)

    sources: Counter[str] = Counter()
    answers: Counter[str] = Counter()
    lengths, first = [], None
    for row in tqdm(rows_of(args.path), unit=" rows"):
        sources[f"{row['data_source']} (ability {row['ability']})"] += 1
        answers[answer_of(row)] += 1
        lengths.append(length(row["prompt"]))
        first = first or row
    if first is None:
        raise DataError(f"{args.path} holds no record.")

    print(f"{args.path}: {len(lengths)} records")
    print(_table("data source", sources))
    quantiles = np.percentile(lengths, [0, 50, 95, 100]).astype(int)
    print("\nprompt length in {}: min {}, median {}, 95 % {}, max {}".format(unit, *quantiles))
    if args.tokenizer:
        over = np.mean(np.array(lengths) > args.max_prompt_length)
        print(f"over max_prompt_length {args.max_prompt_length}: {over:.1%} (verl filters these out)")
    print("\n" + _table("answer", answers))
    print(f"\nfirst prompt, index {first['extra_info']['index']}:\n{render(first['prompt'])}")


def _text_tools(tokenizer_name: str | None) -> tuple[Callable, Callable, str]:
    """Return functions that render and measure a chat, and the unit of length."""
    if tokenizer_name is None:
        return (
            lambda chat: "\n".join(f"[{message['role']}]\n{message['content']}" for message in chat),
            lambda chat: sum(len(message["content"]) for message in chat),
            "characters",
        )
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_name)
    except OSError as error:
        raise DataError(f"cannot load the tokenizer: {' '.join(str(error).split())}") from error

    def render(chat: list[dict]) -> str:
        # Without thinking, as the training configs do; templates that have no such switch ignore it.
        return str(
            tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False, enable_thinking=False)
        )

    return render, lambda chat: len(tokenizer(render(chat), add_special_tokens=False)["input_ids"]), "tokens"


def _table(title: str, counts: Counter) -> str:
    total = counts.total()
    lines = [f"{count:8d}  {count / total:6.1%}  {name}" for name, count in counts.most_common(MOST_COMMON)]
    if len(counts) > MOST_COMMON:
        lines.append(f"          and {len(counts) - MOST_COMMON} more")
    return "\n".join([f"{title}:", *lines])


if __name__ == "__main__":
    run(main)
