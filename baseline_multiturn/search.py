"""Prompting methods: multi-turn (prompts hold the feedback so far) and best-of-k (every prompt is the question)."""

import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from verl.sdpo.prompt import text_of
from verl.sdpo.test_time.grading import GRADING, Question
from verl.sdpo.test_time.log import AttemptLog, result_fields

Chat = list[dict[str, Any]]

TEMPLATES = ("feedback_only", "attempt_and_feedback")
# The words of the paper's teacher prompt (Table 2), here the baseline's own: SDPO's templates can be configured.
HEADER = "The following is feedback from your unsuccessful earlier attempt:"
CLOSING = "Correctly solve the original question."
# Graders wait for the sandbox, which has its own limit on running programs.
GRADING_THREADS = 16


class Generation(NamedTuple):
    text: str
    tokens: int
    truncated: bool
    """Cut by the length limit."""


class Engine(Protocol):
    def count_tokens(self, chat: Chat) -> int:
        """Tokens of the rendered chat, generation header included."""

    def generate(self, chat: Chat, seeds: Sequence[int]) -> list[Generation]:
        """One response to the chat per sampling seed."""


@dataclass
class Search:
    """State that both methods share."""

    question: Question
    engine: Engine
    grade: Callable[[str, bool], dict[str, Any]]
    """Function from a response, and whether it was cut, to the result of `grading.grade`."""
    log: AttemptLog
    max_context: int
    """Longest prompt, in tokens."""
    report: Callable[[str, dict[str, Any] | None], None] = lambda line, record: None
    """Callback for each line to the user, with the attempt that it is about."""

    def attempt_seed(self, attempt: int) -> int:
        """Return a sampling seed that depends on the run's seed and the attempt's number only: a resume repeats it."""
        return zlib.crc32(f"{self.log.config['seed']}/{attempt}".encode())

    def make(self, chat: Chat, count: int, **fields: Any) -> None:
        """Sample the next `count` attempts with one prompt, grade them, log them while the search goes on."""
        first, started = len(self.log.records) + 1, time.monotonic()
        prompt_tokens = self.engine.count_tokens(chat)
        generations = self.engine.generate(chat, [self.attempt_seed(first + i) for i in range(count)])
        with ThreadPoolExecutor(GRADING_THREADS) as pool:
            results = pool.map(lambda generation: self.grade(generation.text, generation.truncated), generations)
            for generation, result in zip(generations, results, strict=True):
                record = self.log.append(
                    response=generation.text,
                    prompt_tokens=prompt_tokens,
                    response_tokens=generation.tokens,
                    **fields,
                    **result_fields(result),
                )
                self.report(self._progress(record, time.monotonic() - started), record)
                if not self.log.left:
                    return

    def _progress(self, record: dict[str, Any], seconds: float) -> str:
        best = max(attempt["metrics"].get("acc", attempt["reward"]) for attempt in self.log.records)
        outcome = ""
        if record["hidden"] is not None:
            outcome = "  CONFIRMED on the hidden tests" if record["confirmed"] else "  passes the public tests only"
        return (
            f"{self.question.id}  attempt {record['attempt']}/{self.log.config['budget']}  reward "
            f"{record['reward']:.2f} (best share of public tests so far {best:.2f})  tokens "
            f"{record['prompt_tokens']} + {record['response_tokens']}  {seconds:.1f} s{outcome}"
        )


def best_of_k(search: Search, batch: int) -> None:
    """Sample the question itself, `batch` attempts at a time, until the log is complete."""
    _check_question(search)
    while search.log.left:
        search.make(search.question.messages, min(batch, search.log.left))


def multi_turn(search: Search, template: str) -> None:
    """Sample with all feedback so far in the prompt, until one is confirmed or the budget is used up.

    The oldest feedback is dropped for good when the prompt is longer than `max_context`.
    """
    if template not in TEMPLATES:
        raise ValueError(f"template={template!r}: expected one of {', '.join(TEMPLATES)}.")
    _check_question(search)
    history = [usable for record in search.log.records for usable in _to_history(record)]
    dropped = search.log.records[-1]["dropped"] if search.log.records else 0
    while search.log.left:
        before = dropped
        chat = _chat(search.question.messages, history[dropped:], template)
        while search.engine.count_tokens(chat) > search.max_context:
            dropped += 1
            chat = _chat(search.question.messages, history[dropped:], template)
        if dropped > before:
            search.report(
                f"{search.question.id}  the context of {search.max_context} tokens is full: dropped the oldest "
                f"{dropped - before} of {len(history) - before} feedbacks, {dropped} in all",
                None,
            )
        search.make(chat, 1, dropped=dropped)
        history += _to_history(search.log.records[-1])


class Turn(NamedTuple):
    response: str
    feedback: str


def _to_history(record: dict[str, Any]) -> list[Turn]:
    """Return the part of an attempt that later prompts show.

    Nothing is shown of an attempt that passed the public tests, because only hidden tests failed, which no prompt may
    reveal; and nothing of one without feedback.
    """
    feedback = record["metrics"].get("feedback") or ""
    if GRADING.is_success(record["reward"]) or not feedback.strip():
        return []
    return [Turn(record["response"], feedback)]


def _chat(question: Chat, turns: Sequence[Turn], template: str) -> Chat:
    if not turns:
        return question
    if template == "attempt_and_feedback":
        return question + [message for turn in turns for message in _exchange(turn)]
    *before, last = question
    return [*before, {**last, "content": f"{text_of(last['content'])}\n\n{_say([turn.feedback for turn in turns])}"}]


def _exchange(turn: Turn) -> Chat:
    return [{"role": "assistant", "content": turn.response}, {"role": "user", "content": _say([turn.feedback])}]


def _say(feedbacks: Sequence[str]) -> str:
    section = "\n\n".join([HEADER, *feedbacks]).rstrip()
    return f"{section}\n\n{CLOSING}"


def _check_question(search: Search) -> None:
    length = search.engine.count_tokens(search.question.messages)
    if length > search.max_context:
        raise ValueError(
            f"question {search.question.id} alone has {length} tokens with the chat template, more than "
            f"--max-context {search.max_context}. Raise it."
        )
