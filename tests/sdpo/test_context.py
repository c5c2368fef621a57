"""Contexts: the texts that the teacher of each rollout is shown, rendered where that says it best."""

from dataclasses import replace

import pytest

from tests.sdpo.rollouts import QUESTION, attempts, build, demonstrations, rollout
from verl.sdpo.context import Demonstration, FailedAttempts, Grading, Groups, OwnAttempt, Rollout
from verl.sdpo.prompt import TeacherPrompt

# Which sections, and the rendered text


@pytest.mark.parametrize(
    ("has_demonstration", "feedback", "only_without_solution", "shown"),
    [
        (True, None, True, ["demonstration"]),
        (True, None, False, ["demonstration"]),
        (True, "too low", True, ["demonstration"]),
        (True, "too low", False, ["demonstration", "feedback"]),
        (False, "too low", True, ["feedback"]),
        (False, "too low", False, ["feedback"]),
        (False, None, True, []),
        (False, None, False, []),
        (False, " \n", True, []),
    ],
)
def test_decision_table(has_demonstration, feedback, only_without_solution, shown):
    sibling = rollout(1.0 if has_demonstration else 0.0, response="The sum is 3.")
    (prompt, _) = build(
        [rollout(0.0, feedback), sibling], environment_feedback_only_without_solution=only_without_solution
    )
    content = prompt.messages[-1]["content"]
    assert prompt.demonstration == ("The sum is 3." if "demonstration" in shown else None)
    assert prompt.feedback == ("too low" if "feedback" in shown else None)
    assert prompt.has_context == bool(shown)
    assert ("Correct solution:\n\nThe sum is 3." in content) == ("demonstration" in shown)
    assert ("earlier attempt:\n\ntoo low" in content) == ("feedback" in shown)
    assert shown or prompt.messages == QUESTION


def test_feedback_can_be_switched_off():
    prompt = build([rollout(0.0, "too low")], include_environment_feedback=False)[0]
    assert prompt == TeacherPrompt(QUESTION)


def test_feedback_that_is_no_text_is_none():
    assert build([rollout(0.0, float("nan"))])[0] == TeacherPrompt(QUESTION)


def test_the_students_own_messages_are_left_alone():
    build([rollout(0.0, "too low")])
    assert QUESTION == [{"role": "user", "content": "Add 1 and 2."}]


def test_thinking_is_kept_on_demand():
    rollouts = [rollout(), rollout(1.0, response="<think>hm</think>3")]
    assert build(rollouts, remove_thinking_from_demonstration=False)[0].demonstration == "<think>hm</think>3"
    assert build(rollouts)[0].demonstration == "3"


@pytest.mark.parametrize("thoughts", ["<think>hm</think>\n", "<think>hm, 3 perhaps", "<think>print '</think>', 3"])
def test_a_success_that_only_thinks_is_passed_over(thoughts):
    rollouts = [rollout(), rollout(1.0, response=thoughts), rollout(1.0, response="3")]
    assert build(rollouts)[0].demonstration == "3"


def test_a_demonstration_that_quotes_the_tag_stays_whole():
    program = "```python\nprint('</think>')\n```"
    rollouts = [rollout(), rollout(1.0, response=f"<think>hm</think>\n\nSo:\n{program}")]
    assert build(rollouts)[0].demonstration == f"So:\n{program}"


# Demonstrations


@pytest.mark.parametrize(
    ("scores", "shown"),
    [
        ([1, 0, 1, 0], [2, 0, 0, 0]),
        ([1, 0, 0, 0], [None, 0, 0, 0]),
        ([0, 0], [None, None]),
        ([1], [None]),
        ([0.99, 1.5], [1, None]),
    ],
)
def test_first_success_of_the_group(scores, shown):
    assert demonstrations(scores) == shown


def test_first_means_the_lowest_attempt_not_the_first_row():
    """Rows arrive in the order in which responses finished and are sorted by length; that must not choose."""
    rows = [Rollout("group", n, QUESTION, f"attempt {n}", 1.0) for n in (2, 0, 1)]
    shown = [prompt.demonstration for prompt in build(rows)]
    assert shown == ["attempt 0", "attempt 1", "attempt 0"]


def test_rows_of_one_attempt_are_not_shown_each_other():
    """An agent loop may split one attempt into several rows; all of them are its own."""
    rows = [Rollout("group", n, QUESTION, f"attempt {n}, row {row}", 1.0) for n in (0, 1) for row in (0, 1)]
    shown = [prompt.demonstration for prompt in build(rows)]
    assert shown == ["attempt 1, row 0"] * 2 + ["attempt 0, row 0"] * 2
    assert [prompt.has_context for prompt in build(rows[:2])] == [False, False]


def test_own_success_may_be_shown_on_demand():
    assert demonstrations([1, 0, 1], dont_reprompt_on_self_success=False) == [0, 0, 0]


def test_a_success_may_be_its_own_solution_as_in_the_paper():
    """Table 2: a success is shown that very attempt, a failure the group's first success."""
    block = {"dont_reprompt_on_self_success": False, "self_success_as_solution": True}
    for rule in ("first", "random"):
        assert demonstrations([0, 1, 0, 1], demonstration_choice=rule, **block)[1::2] == [1, 3]
    assert demonstrations([0, 1, 0, 1], **block) == [1, 1, 1, 3]


def test_threshold_decides_what_a_success_is():
    assert demonstrations([0.5, 0.4], success_reward_threshold=0.5) == [None, 0]


def test_groups_do_not_mix():
    rollouts = [rollout(1.0, uid="a"), rollout(uid="b"), rollout(uid="a")]
    assert [prompt.has_context for prompt in build(rollouts)] == [False, False, True]


def test_random_choice_is_drawn_from_all_other_successes_by_seed_and_step():
    def draw(step, seed=0, scores=(1, 1, 0, 1, 0)):
        return demonstrations(scores, demonstration_choice="random", demonstration_seed=seed, step=step)

    draws = [draw(step) for step in range(40)]
    assert draws[:5] == [draw(step) for step in range(5)]
    assert draws != [draw(step, seed=1) for step in range(40)]
    assert {shown[2] for shown in draws} == {0, 1, 3}
    assert {shown[0] for shown in draws} == {1, 3}
    assert draw(0, scores=[1, 0]) == [None, 0]


def test_shortest_choice_is_the_first_of_the_shortest_others():
    texts = ["a long answer", "short", "brief", "no"]
    rollouts = [Rollout("group", i, QUESTION, text, float(text != "no")) for i, text in enumerate(texts)]
    shown = [prompt.demonstration for prompt in build(rollouts, demonstration_choice="shortest")]
    assert shown == ["short", "brief", "short", "short"]


def test_random_choice_does_not_depend_on_the_order_of_the_rows():
    """verl's rows come in the order in which responses finished, and under another `uid` in every run."""

    def shown(order, uid):
        rollouts = [Rollout(uid, attempt, QUESTION, f"answer {attempt}", 1.0) for attempt in order]
        prompts = build(rollouts, demonstration_choice="random", step=1)
        return {attempt: prompt.demonstration for attempt, prompt in zip(order, prompts, strict=True)}

    in_turn = shown(range(8), "one run")
    assert shown([5, 2, 7, 0, 1, 6, 4, 3], "another") == in_turn
    assert len(set(in_turn.values())) > 1


def test_ungraded_rows_are_neither_shown_nor_distilled():
    rollouts = [
        rollout(1.0, "looks fine", response="padding", is_padding=True),
        rollout(1.0, response="real"),
        rollout(),
        replace(rollout(0.0), reward={"feedback": "too low", "grader_error": True}),
    ]
    prompts = build(rollouts)
    assert [prompt.demonstration for prompt in prompts] == [None, None, "real", None]
    assert [prompt.has_context for prompt in prompts] == [False, False, True, False]


def test_groups_hold_what_was_graded_in_the_order_of_attempts():
    """Two questions; a third one's only attempt is padding. Half of a point is a success here."""
    broken = replace(rollout(1.0, uid="a"), reward={"grader_error": True})
    first, second, third = (rollout(score, uid="a") for score in (0.5, 0.25, 1.0))
    rollouts = [third, broken, rollout(uid="b"), first, second, rollout(1.0, uid="pad", is_padding=True)]
    groups = Groups(rollouts, Grading(success_reward_threshold=0.5), step=7)
    assert list(groups["a"].rollouts) == [first, second, third]
    assert (groups["a"].successes, groups["a"].failures) == ([first, third], [second])
    assert {uid: group.success_rate for uid, group in groups.items()} == {"a": 2 / 3, "b": 0}


# Several attempts in one prompt


def test_several_demonstrations_and_failed_attempts():
    """MOPD: two of the successes, one of the other failures, rendered by hand."""
    prompt = attempts(0, 1, 0, 1, 1, 0, num_demonstrations=2, num_failed_attempts=1)
    assert prompt.texts(Demonstration) == ["attempt 1", "attempt 3"]
    assert prompt.texts(FailedAttempts) == ["attempt 2"]
    assert prompt.messages[-1]["content"] == (
        "Add 1 and 2.\nCorrect solution:\n\nattempt 1\nCorrect solution:\n\nattempt 3"
        "\nIncorrect solution:\n\nattempt 2\n\nCorrectly solve the original question."
    )
    assert attempts(0, 1, num_demonstrations=3, num_failed_attempts=2).texts(Demonstration) == ["attempt 1"]


def test_the_order_of_several_demonstrations_is_the_rules():
    texts = ["question", "a long answer", "short", "brief"]
    rollouts = [Rollout("group", i, QUESTION, text, float(i > 0)) for i, text in enumerate(texts)]
    for rule, expected in (
        ("first", {("a long answer", "short")}),
        ("shortest", {("short", "brief")}),
        ("random", {(a, b) for a in texts[1:] for b in texts[1:] if a != b}),
    ):
        block = {"demonstration_choice": rule, "num_demonstrations": 2}
        shown = {tuple(build(rollouts, step=step, **block)[0].texts(Demonstration)) for step in range(60)}
        assert shown == expected


def test_the_own_attempt_is_shown_beside_knowledge_only():
    """Table 6, last row. It teaches nothing by itself, and is not shown twice."""
    prompt = attempts(0, 1, include_own_attempt=True)
    assert prompt.messages[-1]["content"] == (
        "Add 1 and 2.\nYour earlier attempt:\n\nattempt 0\nCorrect solution:\n\nattempt 1"
        "\n\nCorrectly solve the original question."
    )
    assert "Your earlier attempt:\n\nattempt 0" in attempts(0, include_own_attempt=True).messages[-1]["content"]
    nothing = attempts(0, 0, include_own_attempt=True, num_failed_attempts=1, include_environment_feedback=False)
    assert nothing == TeacherPrompt(QUESTION)
    assert attempts(1, 1, include_own_attempt=True).texts(OwnAttempt) == []
    own = attempts(1, include_own_attempt=True, self_success_as_solution=True, dont_reprompt_on_self_success=False)
    assert (own.texts(Demonstration), own.texts(OwnAttempt)) == (["attempt 0"], [])


def test_attempts_are_shown_without_thinking_and_markup():
    rollouts = [rollout(0, response="<think>hm</think>a <|im_end|>"), rollout(1.0), rollout(0, response="<|im_end|>b")]
    prompt = build(rollouts, markup=["<|im_end|>"], include_own_attempt=True, num_failed_attempts=1)[0]
    assert (prompt.texts(OwnAttempt), prompt.texts(FailedAttempts)) == (["a < |im_end|>"], ["< |im_end|>b"])
