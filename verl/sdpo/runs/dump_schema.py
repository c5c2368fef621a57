"""Dump of a training step: some of its responses with statistics of student and teacher per token, one Parquet file.

`FOLDER/insight/STEP.parquet`, where FOLDER is `trainer.rollout_data_dir`. A file is replaced at once, so that a run in
progress can be read.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from verl.sdpo.context import Demonstration, Groups, Message, Rollout, break_up, by_question
from verl.sdpo.micro_step import NUM_OBSERVED
from verl.sdpo.prompt import TeacherPrompt, text_of
from verl.sdpo.teacher_rows import Sample

SUBFOLDER = "insight"
# Columns with a number per token in nats, and what the report calls them. KL is over the support of the objective.
PER_TOKEN = {
    "log_ratio": "log q - log π",
    "kl": "KL(student‖teacher)",
    "student_entropy": "entropy of the student",
    "teacher_entropy": "entropy of the teacher",
}
MODELS = ("student", "teacher")

# Lists have one number per token of the response, null where a token is not scored: tokens of a tool, and all tokens of
# a response without a teacher context.
_NUMBERS = pa.list_(pa.float32())
SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("uid", pa.string()),  # group: the attempts at one question in one step
        ("attempt", pa.int32()),
        ("question", pa.string()),
        ("teacher_prompt", pa.string()),
        ("has_target", pa.bool_()),  # has a teacher context
        ("prompt_truncated", pa.bool_()),  # the teacher's prompt was cut to max_reprompt_len
        ("demonstration", pa.string()),
        ("demonstration_attempt", pa.int32()),
        ("response", pa.string()),
        ("feedback", pa.string()),  # shown to the teacher or not
        ("score", pa.float32()),
        ("solved", pa.bool_()),
        ("graded", pa.bool_()),
        ("response_cut", pa.bool_()),  # as long as data.max_response_length
        ("tokens", pa.list_(pa.string())),
        *((name, _NUMBERS) for name in PER_TOKEN),
        # `NUM_OBSERVED` for each token, the most likely first
        *((f"{model}_best", pa.list_(pa.string())) for model in MODELS),
        *((f"{model}_best_log_probs", _NUMBERS) for model in MODELS),
    ]
)


def choose(samples: Sequence[Sample], limit: int) -> list[int]:
    """Choose the samples to dump: complete groups of at most `limit` samples together, or the start of a larger group.

    Groups are ordered by their uid, which verl draws at random, because the batch is ordered by length.
    """
    chosen: list[int] = []
    for _, places in sorted(by_question([sample.rollout for sample in samples]).items()):
        group = [i for i in places if not samples[i].rollout.is_padding]
        if chosen and len(chosen) + len(group) > limit:
            break
        chosen += group[:limit]
    return chosen


def chat_text(messages: Sequence[Message]) -> str:
    """Render a chat for reading: the bare text of a single message, else every message under its role."""
    texts = [text_of(message["content"]) for message in messages]
    if len(texts) == 1:
        return texts[0]
    return "\n\n".join(f"[{message['role']}]\n{text}" for message, text in zip(messages, texts, strict=True))


def demonstration_attempt(rollout: Rollout, prompt: TeacherPrompt, groups: Groups, markup: Sequence[str]) -> int | None:
    """Return the number of the attempt that the rollout's teacher is shown, which may have been cut to fit."""
    for section, text in prompt.shown:
        if isinstance(section, Demonstration):
            attempts = section.config.attempts(groups[rollout.uid].successes)
            return next((attempt.number for attempt in attempts if text in break_up(attempt.text, markup)), None)
    return None


def token_columns(recorded: Mapping[str, torch.Tensor] | None, length: int, vocabulary: Mapping[int, str]) -> dict:
    """Return the columns of one response that have an entry per token.

    Args:
        recorded: the recorder's tensors for the response: `position` and others, (N,) or (N, NUM_OBSERVED) each;
            None for a response without a teacher context.
        length: tokens of the response.
        vocabulary: text of every token id that occurs.
    """
    if recorded is None:
        return dict.fromkeys((*PER_TOKEN, *(f"{m}_{part}" for m in MODELS for part in ("best", "best_log_probs"))))
    columns: dict[str, list] = {}
    positions = recorded["position"]
    for name in PER_TOKEN:
        columns[name] = _spread(recorded[name].tolist(), positions.tolist(), length)
    places = (positions.unsqueeze(-1) * NUM_OBSERVED + torch.arange(NUM_OBSERVED)).flatten().tolist()
    for model in MODELS:
        texts = [vocabulary[i] for i in recorded[f"{model}_best"].flatten().tolist()]
        columns[f"{model}_best"] = _spread(texts, places, length * NUM_OBSERVED)
        log_probs = recorded[f"{model}_best_log_probs"].flatten().tolist()
        columns[f"{model}_best_log_probs"] = _spread(log_probs, places, length * NUM_OBSERVED)
    return columns


def _spread(values: Sequence[Any], places: Sequence[int], length: int) -> list:
    """Return a list with the values at their places and None elsewhere."""
    spread: list[Any] = [None] * length
    for place, value in zip(places, values, strict=True):
        spread[place] = value
    return spread


def write(file: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write the records of one step."""
    partial = file.with_name(f".{file.name}.partial")
    pq.write_table(pa.Table.from_pylist(list(records), schema=SCHEMA), partial, compression="zstd")
    os.replace(partial, file)


def read(file: Path) -> list[dict[str, Any]]:
    """Read the records of one step."""
    return pq.read_table(file).to_pylist()
