"""Run a probe from the configuration of a training: questions, attempts, teacher prompts, answers, scores."""

import asyncio
import inspect
import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pyarrow.parquet as pq
import torch
from omegaconf import DictConfig

from verl.sdpo.config import SelfDistillationConfig, parse_block
from verl.sdpo.context import Grading, Rollout
from verl.sdpo.preflight.data_files import local_files
from verl.sdpo.probe.measures import Answer, Row, TokenScores, summarise
from verl.sdpo.teacher_rows import Sample, TeacherRowBuilder
from verl.sdpo.trainer.samples import make_row_builder

# Maps prompts to one answer each, as tokens.
Answering = Callable[[Sequence[Sequence[int]]], list[list[int]]]
# Scores a response under the student's and the teacher's prompt, in this order.
Score = Callable[[Sequence[int], Sequence[int], Sequence[int]], TokenScores]
GRADERS = 8


@dataclass(frozen=True)
class Size:
    """Numbers of samples."""

    questions: int
    attempts: int
    """Attempts of the student at each question."""
    answers: int
    """Most answers of the teacher in each context."""


def read_questions(config: DictConfig, count: int) -> list[dict[str, Any]]:
    """Draw rows of the training data by its seed."""
    rows = [row for file in local_files(config.data, "train_files") for row in pq.read_table(file).to_pylist()]
    return random.Random(config.data.seed).sample(rows, min(count, len(rows)))


class Grader:
    """Reward function of the configuration, called as verl's naive reward manager calls it."""

    def __init__(self, config: DictConfig, decode: Callable[[Sequence[int]], str]):
        from verl.trainer.ppo.reward import get_custom_reward_fn
        from verl.utils.reward_score import default_compute_score

        self.function = get_custom_reward_fn(config) or default_compute_score
        self.decode, self.max_tokens = decode, config.data.max_response_length

    def __call__(self, row: Mapping[str, Any], tokens: Sequence[int]) -> dict[str, Any]:
        result = self.function(
            data_source=row["data_source"],
            solution_str=self.decode(tokens),
            ground_truth=row["reward_model"]["ground_truth"],
            extra_info={**(row.get("extra_info") or {}), "truncated": len(tokens) >= self.max_tokens},
        )
        if inspect.isawaitable(result):
            result = asyncio.run(_wait(result))
        return result if isinstance(result, dict) else {"score": result}

    def all(self, rows: Sequence[Mapping[str, Any]], answers: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
        with ThreadPoolExecutor(GRADERS) as pool:
            return list(pool.map(self, rows, answers))


async def _wait(result):
    return await result


def to_answer(question: int, reward: Mapping[str, Any], grading: Grading) -> Answer:
    outcome = f"{reward['score']} {reward.get('feedback') or ''}"
    return Answer(question, grading.is_success(reward["score"]), outcome)


class Probe:
    """Attempts of the student, and any number of contexts on them."""

    def __init__(self, config: DictConfig, tokenizer: Any, size: Size):
        self.config, self.size = config, size
        block = config.actor_rollout_ref.actor.self_distillation
        self.block = {str(key): value for key, value in block.items() if key != "_target_"}
        self.settings = parse_block(config)
        self.builder = make_row_builder(config, self.settings, tokenizer)
        self.decode = lambda ids: tokenizer.decode(ids, skip_special_tokens=True)
        self.grade = Grader(config, self.decode)
        self.questions = read_questions(config, size.questions)
        self.random = random.Random(config.data.seed)

    def attempt(self, sample: Answering) -> None:
        """Let the student answer every question."""
        tools = list(self.builder.tool_schemas.values()) or None
        prompts = [self.builder.tokenize_chat(row["prompt"], tools) for row in self.questions]
        numbers = [number for number in range(len(prompts)) for _ in range(self.size.attempts)]
        tokens = sample([prompts[number] for number in numbers])
        rewards = self.grade.all([self.questions[number] for number in numbers], tokens)
        self.samples, self.attempts = [], []
        for place, (number, response, reward) in enumerate(zip(numbers, tokens, rewards, strict=True)):
            rollout = Rollout(
                uid=str(number),
                attempt=place % self.size.attempts,
                messages=self.questions[number]["prompt"],
                response=self.decode(response),
                score=float(reward["score"]),
                reward=reward,
                extra_info=self.questions[number].get("extra_info") or {},
            )
            ids = torch.tensor(prompts[number]), torch.tensor(response)
            self.samples.append(Sample(rollout, *ids))
            self.attempts.append(to_answer(number, reward, self.settings.grading))

    def choose(self, keys: Mapping[str, Any]) -> tuple[list[tuple[int, list[int]]], float]:
        """Return attempts with a context under these keys of the block, with the teacher's prompt, and their share."""
        settings = SelfDistillationConfig(**{**self.block, **keys})
        builder: TeacherRowBuilder = replace(self.builder, config=settings)
        rows = builder.build(self.samples, step=0)
        prompts = [
            (place, ids[: len(ids) - len(self.samples[place].response_ids)].tolist())
            for place, (ids, prompt) in enumerate(zip(rows.input_ids, rows.prompts, strict=True))
            # An empty response has no token to score.
            if prompt.has_context and len(self.samples[place].response_ids)
        ]
        chosen = self.random.sample(prompts, min(self.size.answers, len(prompts)))
        return sorted(chosen), len(prompts) / len(self.samples)

    def answer(self, chosen: Sequence[tuple[int, list[int]]], sample: Answering) -> list[tuple[int, Answer]]:
        """Let the teacher answer its prompts."""
        questions = [self.attempts[place].question for place, _ in chosen]
        tokens = sample([prompt for _, prompt in chosen])
        rewards = self.grade.all([self.questions[number] for number in questions], tokens)
        return [
            (place, to_answer(number, reward, self.settings.grading))
            for (place, _), number, reward in zip(chosen, questions, rewards, strict=True)
        ]

    def row(self, context: str, chosen, pairs, coverage: float, score: Score) -> Row:
        """Score a context's attempts and return its row of the table."""
        scores = [
            score(self.samples[place].prompt_ids.tolist(), prompt, self.samples[place].response_ids.tolist())
            for place, prompt in chosen
        ]
        return summarise(context, attempts=self.attempts, pairs=pairs, scores=scores, coverage=coverage)
