"""The searches with a scripted engine: what they ask, log, count and repeat."""

import json

import pytest

from baseline_multiturn.search import best_of_k, multi_turn
from tests.sdpo.test_time.fakes import QUESTION, new_search, without_time
from verl.sdpo.test_time.log import conclusion, read_log

HEADER = "The following is feedback from your unsuccessful earlier attempt:"
CLOSING = "Correctly solve the original question."
POOL = {"pool": True}


def user(content):
    return {"role": "user", "content": content}


def wrong(attempt, chat):
    return f"wrong{attempt}"


METHODS = {
    "feedback_only": lambda search: multi_turn(search, "feedback_only"),
    "attempt_and_feedback": lambda search: multi_turn(search, "attempt_and_feedback"),
    "best_of_k": lambda search: best_of_k(search, 4),
}

# Prompts


def test_feedback_only_joins_all_feedback_in_one_message(tmp_path):
    search = new_search(tmp_path, wrong, budget=3)
    multi_turn(search, "feedback_only")
    first, second, third = search.engine.chats
    assert first == QUESTION.messages
    assert second == [user(f"What is it?\n\n{HEADER}\n\nwrong1 fails public tests\n\n{CLOSING}")]
    both = "wrong1 fails public tests\n\nwrong2 fails public tests"
    assert third == [user(f"What is it?\n\n{HEADER}\n\n{both}\n\n{CLOSING}")]


def test_blank_ends_of_the_last_feedback_are_dropped(tmp_path):
    search = new_search(tmp_path, wrong, budget=2)
    result = {"score": 0.0, "feedback": " no \n\n", "hidden": None, "confirmed": False}
    search.grade = lambda response, truncated: result
    multi_turn(search, "feedback_only")
    assert search.engine.chats[1] == [user(f"What is it?\n\n{HEADER}\n\n no\n\n{CLOSING}")]


def test_attempt_and_feedback_is_a_conversation(tmp_path):
    search = new_search(tmp_path, wrong, budget=3)
    multi_turn(search, "attempt_and_feedback")
    assert search.engine.chats[2] == [
        *QUESTION.messages,
        {"role": "assistant", "content": "wrong1"},
        user(f"{HEADER}\n\nwrong1 fails public tests\n\n{CLOSING}"),
        {"role": "assistant", "content": "wrong2"},
        user(f"{HEADER}\n\nwrong2 fails public tests\n\n{CLOSING}"),
    ]


def test_best_of_k_asks_the_question_only(tmp_path):
    search = new_search(tmp_path, wrong)
    best_of_k(search, 5)
    assert all(chat == QUESTION.messages for chat in search.engine.chats)


def test_an_unknown_template_is_refused(tmp_path):
    with pytest.raises(ValueError, match="template='both': expected one of feedback_only, attempt_and_feedback"):
        multi_turn(new_search(tmp_path, wrong), "both")


# The context


def test_the_oldest_feedback_is_dropped_when_the_context_is_full(tmp_path):
    """The question has 3 words, header and closing 14, a feedback 4: 25 words hold two feedbacks, not three."""
    search = new_search(tmp_path, wrong, budget=5, max_context=25)
    multi_turn(search, "feedback_only")
    shown = [[n for n in range(1, 6) if f"wrong{n} " in chat[0]["content"]] for chat in search.engine.chats]
    assert shown == [[], [1], [1, 2], [2, 3], [3, 4]]
    assert [record["dropped"] for record in search.log.records] == [0, 0, 0, 1, 2]
    notes = [line for line in search.lines if "context" in line]
    assert notes == [
        "q_7  the context of 25 tokens is full: dropped the oldest 1 of 3 feedbacks, 1 in all",
        "q_7  the context of 25 tokens is full: dropped the oldest 1 of 3 feedbacks, 2 in all",
    ]


def test_a_response_goes_with_its_feedback(tmp_path):
    """Question 3, an exchange 1 + 18: one exchange fits into 30 words."""
    search = new_search(tmp_path, wrong, budget=4, max_context=30)
    multi_turn(search, "attempt_and_feedback")
    assert [message["content"] for message in search.engine.chats[3]][1] == "wrong3"
    assert [len(chat) for chat in search.engine.chats] == [1, 3, 3, 3]


def test_feedback_that_never_fits_leaves_the_question(tmp_path):
    search = new_search(tmp_path, wrong, budget=3, max_context=10)
    multi_turn(search, "feedback_only")
    assert search.engine.chats == [QUESTION.messages] * 3
    assert [record["dropped"] for record in search.log.records] == [0, 1, 2]


@pytest.mark.parametrize("method", METHODS)
def test_a_question_that_is_too_long_is_an_error_before_the_first_attempt(tmp_path, method):
    search = new_search(tmp_path, wrong, max_context=2)
    with pytest.raises(ValueError, match=r"question q_7 alone has 3 tokens .* more than --max-context 2"):
        METHODS[method](search)
    assert search.engine.batches == []


# Grading


@pytest.mark.parametrize("method", METHODS)
def test_a_public_success_is_confirmed_and_ends_the_search(tmp_path, method):
    search = new_search(tmp_path, lambda attempt, chat: "right" if attempt in (3, 4) else "wrong")
    METHODS[method](search)
    assert [record["confirmed"] for record in search.log.records] == [False, False, True]
    assert search.log.records[-1]["hidden"]["score"] == 1.0
    assert search.log.records[0]["hidden"] is None
    assert "CONFIRMED" in search.lines[-1]


@pytest.mark.parametrize("method", METHODS)
def test_a_success_on_public_tests_only_is_logged_and_the_search_goes_on(tmp_path, method):
    search = new_search(tmp_path, lambda attempt, chat: {2: "cheat", 4: "right"}.get(attempt, f"wrong{attempt}"))
    METHODS[method](search)
    _, cheat, *_ = search.log.records
    assert (cheat["reward"], cheat["confirmed"]) == (1.0, False)
    assert cheat["hidden"] == {"score": 0.0, "acc": 0.0}
    assert len(search.log.records) == 4
    assert "passes the public tests only" in search.lines[1]


@pytest.mark.parametrize("template", ["feedback_only", "attempt_and_feedback"])
def test_nothing_about_hidden_tests_reaches_prompt_or_log(tmp_path, template):
    search = new_search(tmp_path, lambda attempt, chat: "cheat" if attempt == 2 else f"wrong{attempt}", budget=4)
    multi_turn(search, template)
    prompts = json.dumps(search.engine.chats)
    assert "wrong1 fails public tests" in prompts
    assert "wrong3 fails public tests" in prompts
    assert "cheat" not in prompts
    assert "hidden" not in prompts
    assert "SECRET" not in search.log.path.read_text()


@pytest.mark.parametrize("truncated", [False, True])
def test_graders_are_told_whether_a_response_was_cut(tmp_path, truncated):
    search = new_search(tmp_path, wrong, budget=1, truncated=truncated)
    best_of_k(search, 1)
    assert search.log.records[0]["metrics"]["feedback"] == f"wrong1{' (cut)' * truncated} fails public tests"


# Budget and resume


@pytest.mark.parametrize("method", METHODS)
def test_the_budget_is_used_up_exactly(tmp_path, method):
    search = new_search(tmp_path, wrong, budget=10)
    METHODS[method](search)
    assert [record["attempt"] for record in search.log.records] == list(range(1, 11))
    assert [record["response"] for record in search.log.records] == [f"wrong{n}" for n in range(1, 11)]
    assert sum(search.engine.batches) == 10
    METHODS[method](search)
    assert sum(search.engine.batches) == 10


def test_batches_have_the_size_asked_for_and_the_last_the_rest(tmp_path):
    search = new_search(tmp_path, wrong, budget=10)
    best_of_k(search, 4)
    assert search.engine.batches == [4, 4, 2]


def test_seeds_differ_between_attempts_and_between_runs(tmp_path):
    search = new_search(tmp_path, wrong)
    seeds = [search.attempt_seed(attempt) for attempt in range(1, 2751)]
    search.log.config["seed"] = 1
    assert len({*seeds, *(search.attempt_seed(attempt) for attempt in range(1, 2751))}) == 5500


def answer(attempt, chat):
    """Depends on all of the prompt, so that a history that was rebuilt wrongly shows; solved by attempt 10."""
    name = {4: "cheat", 10: "right"}.get(attempt, "wrong")
    return f"{name} {sum(map(ord, json.dumps(chat)))} {attempt}"


def test_a_pool_goes_on_after_a_confirmed_attempt(tmp_path):
    search = new_search(
        tmp_path, lambda attempt, chat: "right" if attempt in (3, 6) else "wrong", budget=10, header=POOL
    )
    best_of_k(search, 4)
    assert [record["attempt"] for record in search.log.records if record["confirmed"]] == [3, 6]
    assert search.engine.batches == [4, 4, 2]
    assert search.log.left == 0
    assert conclusion(search.log).startswith("q_7: 2 of 10 attempts confirmed on the hidden tests.")


@pytest.mark.parametrize("incomplete", [0, 7], ids=["complete lines", "incomplete line"])
@pytest.mark.parametrize("method", [*METHODS, "pool"])
def test_a_run_that_was_killed_at_any_line_repeats_the_one_that_was_not(tmp_path, method, incomplete):
    attempts, header = (12, POOL) if method == "pool" else (10, {})
    search_with = METHODS.get(method, METHODS["best_of_k"])
    whole = new_search(tmp_path / "whole", answer, max_context=60, header=header)
    search_with(whole)
    lines = whole.log.path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + attempts
    for killed_after in range(len(lines)):
        folder = tmp_path / f"killed{killed_after}"
        folder.mkdir()
        rest = lines[killed_after][:incomplete]
        (folder / whole.log.path.name).write_bytes(b"".join(lines[:killed_after]) + rest)
        resumed = new_search(folder, answer, max_context=60, header=header)
        search_with(resumed)
        config, records = read_log(resumed.log.path)
        assert without_time(records) == without_time(whole.log.records)
        assert config == whole.log.config
        assert sum(resumed.engine.batches) >= len(records) - max(killed_after - 1, 0)
