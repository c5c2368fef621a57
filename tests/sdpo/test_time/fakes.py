"""A scripted engine and grader, and a question for them."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from baseline_multiturn.search import Generation, Search
from verl.sdpo.test_time.grading import Question, grade_question
from verl.sdpo.test_time.log import SUFFIX, AttemptLog

PUBLIC, HIDDEN = "public tests", "hidden tests with SECRET outputs"
QUESTION = Question("q_7", [{"role": "user", "content": "What is it?"}], "fake", PUBLIC, HIDDEN, {"index": "7"})


def reward_function(data_source: str, response: str, tests: str, extra_info: dict) -> dict:
    """`right` passes all tests, `cheat` the public ones only."""
    passed = response.startswith("right") or (response.startswith("cheat") and tests == PUBLIC)
    cut = " (cut)" if extra_info["truncated"] else ""
    feedback = "" if passed else f"{response}{cut} fails {tests}"
    return {"score": float(passed), "acc": float(passed), "feedback": feedback, "pred": tests}


class FakeEngine:
    """Answers with `respond(attempt, chat)`; a token is a word."""

    def __init__(self, respond: Callable[[int, list], str], *, truncated: bool = False):
        self.respond, self.truncated = respond, truncated
        self.search: Search
        self.chats: list[list] = []
        self.batches: list[int] = []

    def count_tokens(self, chat) -> int:
        return sum(len(message["content"].split()) for message in chat)

    def generate(self, chat, seeds) -> list[Generation]:
        attempts = {self.search.attempt_seed(attempt): attempt for attempt in range(1, 100)}
        self.chats.append(json.loads(json.dumps(chat)))
        self.batches.append(len(seeds))
        texts = [self.respond(attempts[seed], chat) for seed in seeds]
        return [Generation(text, len(text.split()), self.truncated) for text in texts]


def new_search(folder: Path, respond, *, budget: int = 12, max_context: int = 10_000, header=None, **engine) -> Search:
    lines: list[str] = []
    fake = FakeEngine(respond, **engine)
    search = Search(
        question=QUESTION,
        engine=fake,
        grade=lambda response, truncated: grade_question(reward_function, QUESTION, response, truncated),
        log=AttemptLog(folder / f"run{SUFFIX}", {"seed": 0, "budget": budget, **QUESTION.header(), **(header or {})}),
        max_context=max_context,
        report=lambda line, record: lines.append(line),
    )
    search.lines, fake.search = lines, search
    return search


def without_time(records: list[dict]) -> list[dict]:
    return [{key: value for key, value in record.items() if key != "timestamp"} for record in records]


def write_question(folder: Path, *, source: str = "tiny", copies: int = 1, hidden: str = HIDDEN) -> Path:
    """A folder like those of data/prepare_data_splits.sh."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, tests in (("train", PUBLIC), ("test", hidden)):
        row = {
            "data_source": source,
            "prompt": QUESTION.messages,
            "ability": "fake",
            "reward_model": {"style": "fake", "ground_truth": tests},
            "extra_info": {"split": split, "index": "7"},
        }
        pq.write_table(pa.Table.from_pylist([row] * copies), folder / f"{split}.parquet")
    return folder
