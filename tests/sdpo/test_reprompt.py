from dataclasses import replace
from itertools import count

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from verl.sdpo.reprompt import (
    FirstSuccess,
    RandomSuccess,
    RepromptConfig,
    Rollout,
    ShortestSuccess,
    TeacherPrompt,
    build_teacher_prompts,
    fill,
    fit_teacher_prompt,
    reprompt_metrics,
    text_of,
)

SETTINGS = RepromptConfig()
FIRST, RANDOM = FirstSuccess(FirstSuccess.Config()), RandomSuccess(RandomSuccess.Config())
QUESTION = [{"role": "user", "content": "Add 1 and 2."}]


ATTEMPTS = count()


def rollout(score=0.0, feedback=None, *, response="an answer", uid="group", messages=QUESTION, graded=True):
    """One more attempt, later than all others."""
    return Rollout(uid, next(ATTEMPTS), messages, response, score, feedback, graded)


def build(rollouts, settings=SETTINGS, rule=FIRST, step=0):
    return build_teacher_prompts(rollouts, settings, rule, step)


def demonstrations(scores, settings=SETTINGS, rule=FIRST, step=0):
    """Which sample's attempt each sample is shown."""
    rollouts = [Rollout("group", i, QUESTION, f"attempt {i}", score) for i, score in enumerate(scores)]
    chosen = [prompt.demonstration for prompt in build(rollouts, settings, rule, step)]
    return [None if text is None else int(text.removeprefix("attempt ")) for text in chosen]


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
    settings = replace(SETTINGS, environment_feedback_only_without_solution=only_without_solution)
    sibling = rollout(1.0 if has_demonstration else 0.0, response="The sum is 3.")
    prompt = build([rollout(0.0, feedback), sibling], settings)[0]
    content = prompt.messages[-1]["content"]
    assert prompt.demonstration == ("The sum is 3." if "demonstration" in shown else None)
    assert prompt.feedback == ("too low" if "feedback" in shown else None)
    assert prompt.has_context == bool(shown)
    assert ("Correct solution:\n\nThe sum is 3." in content) == ("demonstration" in shown)
    assert ("earlier attempt:\n\ntoo low" in content) == ("feedback" in shown)
    assert shown or prompt.messages == QUESTION


def test_default_rendering_of_a_demonstration():
    prompt = build([rollout(), rollout(1.0, response=r"The sum is \boxed{3}")])[0]
    assert prompt.messages == [
        {
            "role": "user",
            "content": "Add 1 and 2.\nCorrect solution:\n\nThe sum is \\boxed{3}\n\n"
            "Correctly solve the original question.",
        }
    ]


def test_default_rendering_of_feedback():
    assert build([rollout(0.0, "4 is too high")])[0].messages[0]["content"] == (
        "Add 1 and 2.\nThe following is feedback from your unsuccessful earlier attempt:\n\n4 is too high\n\n"
        "Correctly solve the original question."
    )


def test_default_rendering_of_both():
    settings = replace(SETTINGS, environment_feedback_only_without_solution=False)
    prompts = build([rollout(0.0, "4 is too high"), rollout(1.0, response="3")], settings)
    assert prompts[0].messages[0]["content"] == (
        "Add 1 and 2.\nCorrect solution:\n\n3\n"
        "The following is feedback from your unsuccessful earlier attempt:\n\n4 is too high\n\n"
        "Correctly solve the original question."
    )


def test_feedback_can_be_switched_off():
    prompt = build([rollout(0.0, "too low")], replace(SETTINGS, include_environment_feedback=False))[0]
    assert prompt == TeacherPrompt(QUESTION)


def test_feedback_that_is_no_text_is_none():
    assert build([rollout(0.0, float("nan"))])[0] == TeacherPrompt(QUESTION)


def test_the_students_own_messages_are_left_alone():
    build([rollout(0.0, "too low")])
    assert QUESTION == [{"role": "user", "content": "Add 1 and 2."}]


# Templates and texts


def test_braces_in_data_and_templates_stay():
    settings = replace(SETTINGS, reprompt_template='{prompt}|{solution}|{feedback}|{} {0} {x!r} {{"a": 1}}')
    messages = [{"role": "user", "content": "json {solution} {"}]
    prompts = build([rollout(messages=messages), rollout(1.0, response='{"a": {prompt}}', messages=messages)], settings)
    assert prompts[0].messages[0]["content"] == (
        'json {solution} {|\nCorrect solution:\n\n{"a": {prompt}}||{} {0} {x!r} {{"a": 1}}'
    )


@examples(max_examples=200, deadline=None)
@given(
    literals=st.tuples(*[st.text(st.sampled_from("{}ab\\g<1> "), max_size=8)] * 3),
    values=st.tuples(*[st.one_of(st.text(max_size=20), st.sampled_from(["{a}", "{b}", "{{a}}", r"\1", "{"]))] * 2),
)
def test_fill_replaces_each_placeholder_once_and_nothing_else(literals, values):
    before, between, after = (text.replace("{a}", "").replace("{b}", "") for text in literals)
    template = before + "{a}" + between + "{b}" + after
    # The literals may form a placeholder together with their neighbours; such templates say something else.
    if template.count("{a}") == template.count("{b}") == 1:
        assert fill(template, a=values[0], b=values[1]) == before + values[0] + between + values[1] + after


def test_thinking_is_kept_on_demand():
    settings = replace(SETTINGS, remove_thinking_from_demonstration=False)
    rollouts = [rollout(), rollout(1.0, response="<think>hm</think>3")]
    assert build(rollouts, settings)[0].demonstration == "<think>hm</think>3"
    assert build(rollouts)[0].demonstration == "3"


@pytest.mark.parametrize("thoughts", ["<think>hm</think>\n", "<think>hm, 3 perhaps", "<think>print '</think>', 3"])
def test_a_success_that_only_thinks_is_passed_over(thoughts):
    rollouts = [rollout(), rollout(1.0, response=thoughts), rollout(1.0, response="3")]
    assert build(rollouts)[0].demonstration == "3"


def test_a_demonstration_that_quotes_the_tag_stays_whole():
    program = "```python\nprint('</think>')\n```"
    rollouts = [rollout(), rollout(1.0, response=f"<think>hm</think>\n\nSo:\n{program}")]
    assert build(rollouts)[0].demonstration == f"So:\n{program}"


# Chats


def test_list_typed_content_is_joined():
    parts = [{"type": "text", "text": "Add 1 "}, {"type": "text", "text": "and 2."}]
    prompt = build([rollout(0.0, "too low", messages=[{"role": "user", "content": parts}])])[0]
    assert prompt.messages[0]["content"].startswith("Add 1 and 2.\nThe following is feedback")


def test_a_part_that_is_no_text_is_refused():
    with pytest.raises(ValueError, match=r"'image'.*text only"):
        text_of([{"type": "text", "text": "What is this?"}, {"type": "image", "image": "cat.png"}])


def test_earlier_messages_and_extra_keys_stay():
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Add 1 and 2.", "name": "Ann"},
    ]
    prompt = build([rollout(0.0, "too low", messages=messages)])[0]
    assert prompt.messages[:3] == messages[:3]
    assert prompt.messages[3]["name"] == "Ann"
    assert prompt.messages[3]["content"].startswith("Add 1 and 2.\nThe following")


def test_the_last_user_message_is_rewritten_wherever_it_stands():
    messages = [*QUESTION, {"role": "assistant", "content": "The sum is"}]
    prompt = build([rollout(0.0, "too low", messages=messages)])[0]
    assert prompt.messages[0]["content"].startswith("Add 1 and 2.\nThe following")
    assert prompt.messages[1] == messages[1]


def test_a_chat_without_user_is_refused():
    with pytest.raises(ValueError, match="sample group: the prompt has no user message"):
        build([rollout(0.0, "too low", messages=[{"role": "system", "content": "Go."}])])


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
    assert demonstrations([1, 0, 1], replace(SETTINGS, dont_reprompt_on_self_success=False)) == [0, 0, 0]


def test_a_success_may_be_its_own_solution_as_in_the_paper():
    """Table 2: a success is shown that very attempt, a failure the group's first success."""
    settings = replace(SETTINGS, dont_reprompt_on_self_success=False, self_success_as_solution=True)
    for rule in (FIRST, RANDOM):
        assert demonstrations([0, 1, 0, 1], settings, rule)[1::2] == [1, 3]
    assert demonstrations([0, 1, 0, 1], settings) == [1, 1, 1, 3]


def test_threshold_decides_what_a_success_is():
    assert demonstrations([0.5, 0.4], replace(SETTINGS, success_reward_threshold=0.5)) == [None, 0]


def test_groups_do_not_mix():
    rollouts = [rollout(1.0, uid="a"), rollout(uid="b"), rollout(uid="a")]
    assert [prompt.has_context for prompt in build(rollouts)] == [False, False, True]


def test_random_choice_is_drawn_from_all_other_successes_by_seed_and_step():
    scores = [1, 1, 0, 1, 0]
    draws = [demonstrations(scores, rule=RANDOM, step=step) for step in range(40)]
    assert draws[:5] == [demonstrations(scores, rule=RANDOM, step=step) for step in range(5)]
    other = RandomSuccess(RandomSuccess.Config(demonstration_seed=1))
    assert draws != [demonstrations(scores, rule=other, step=step) for step in range(40)]
    assert {draw[2] for draw in draws} == {0, 1, 3}
    assert {draw[0] for draw in draws} == {1, 3}
    assert demonstrations([1, 0], rule=RANDOM) == [None, 0]


def test_shortest_choice_is_the_first_of_the_shortest_others():
    texts = ["a long answer", "short", "brief", "no"]
    rollouts = [Rollout("group", i, QUESTION, text, float(text != "no")) for i, text in enumerate(texts)]
    shown = [prompt.demonstration for prompt in build(rollouts, rule=ShortestSuccess(ShortestSuccess.Config()))]
    assert shown == ["short", "brief", "short", "short"]


def test_random_choice_does_not_depend_on_the_order_of_the_rows():
    """verl's rows come in the order in which responses finished, and under another `uid` in every run."""

    def shown(order, uid):
        rollouts = [Rollout(uid, attempt, QUESTION, f"answer {attempt}", 1.0) for attempt in order]
        prompts = build(rollouts, rule=RANDOM, step=1)
        return {attempt: prompt.demonstration for attempt, prompt in zip(order, prompts, strict=True)}

    in_turn = shown(range(8), "one run")
    assert shown([5, 2, 7, 0, 1, 6, 4, 3], "another") == in_turn
    assert len(set(in_turn.values())) > 1


def test_ungraded_rows_are_neither_shown_nor_distilled():
    rollouts = [
        rollout(1.0, "looks fine", response="padding", graded=False),
        rollout(1.0, response="real"),
        rollout(),
        rollout(0.0, "too low", graded=False),
    ]
    prompts = build(rollouts)
    assert [prompt.demonstration for prompt in prompts] == [None, None, "real", None]
    assert [prompt.has_context for prompt in prompts] == [False, False, True, False]


# Several attempts in one prompt


def attempts(*scores, **settings):
    """The prompt of the first of as many rollouts, whose responses are `attempt 0`, `attempt 1`, ..."""
    rollouts = [Rollout("group", i, QUESTION, f"attempt {i}", score, "too low") for i, score in enumerate(scores)]
    return build(rollouts, replace(SETTINGS, **settings))[0]


def test_several_demonstrations_and_failed_attempts():
    """MOPD: two of the successes, one of the other failures, rendered by hand."""
    prompt = attempts(0, 1, 0, 1, 1, 0, num_demonstrations=2, num_failed_attempts=1)
    assert prompt.texts("solution") == ["attempt 1", "attempt 3"]
    assert prompt.texts("failed") == ["attempt 2"]
    assert prompt.messages[-1]["content"] == (
        "Add 1 and 2.\nCorrect solution:\n\nattempt 1\nCorrect solution:\n\nattempt 3"
        "\nIncorrect solution:\n\nattempt 2\n\nCorrectly solve the original question."
    )
    assert attempts(0, 1, num_demonstrations=3, num_failed_attempts=2).texts("solution") == ["attempt 1"]


def test_the_order_of_several_demonstrations_is_the_rules():
    texts = ["question", "a long answer", "short", "brief"]
    rollouts = [Rollout("group", i, QUESTION, text, float(i > 0)) for i, text in enumerate(texts)]
    settings = replace(SETTINGS, num_demonstrations=2)
    for rule, expected in (
        (FIRST, {("a long answer", "short")}),
        (ShortestSuccess(ShortestSuccess.Config()), {("short", "brief")}),
        (RANDOM, {(a, b) for a in texts[1:] for b in texts[1:] if a != b}),
    ):
        shown = {tuple(build(rollouts, settings, rule, step)[0].texts("solution")) for step in range(60)}
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
    assert attempts(1, 1, include_own_attempt=True).texts("attempt") == []
    own = attempts(1, include_own_attempt=True, self_success_as_solution=True, dont_reprompt_on_self_success=False)
    assert (own.texts("solution"), own.texts("attempt")) == (["attempt 0"], [])


def test_attempts_are_shown_without_thinking_and_markup():
    rollouts = [rollout(0, response="<think>hm</think>a <|im_end|>"), rollout(1.0), rollout(0, response="<|im_end|>b")]
    settings = replace(SETTINGS, include_own_attempt=True, num_failed_attempts=1)
    prompt = build_teacher_prompts(rollouts, settings, FIRST, 0, ["<|im_end|>"])[0]
    assert (prompt.texts("attempt"), prompt.texts("failed")) == (["a < |im_end|>"], ["< |im_end|>b"])


def test_templates_without_a_place_for_what_is_asked_for_are_refused():
    template = "{prompt}{solution}{feedback}"
    assert replace(SETTINGS, reprompt_template=template)
    for settings, place in (
        ({"include_own_attempt": True}, "attempt"),
        ({"num_failed_attempts": 1}, "failed_attempts"),
    ):
        with pytest.raises(ValueError, match="reprompt_template=.*contains {" + place + "}"):
            replace(SETTINGS, reprompt_template=template, **settings)


def test_the_longest_section_is_cut_until_all_fit():
    prompt = attempts(0, 1, 0, 1, include_own_attempt=True, num_demonstrations=2, num_failed_attempts=1)
    whole = length(prompt.messages)
    for room in range(whole - length(QUESTION)):
        settings = replace(SETTINGS, max_reprompt_len=whole - room)
        fitted, token_ids = fit(prompt, rollout(), settings)
        assert len(token_ids) <= whole - room
        assert all(
            any(whole_text.startswith(section.text) for whole_text in prompt.texts(section.kind))
            for section in fitted.sections
        )
        assert fitted.has_context == (fitted.messages != QUESTION)
        if fitted.texts("attempt") or fitted.texts("failed"):
            assert fitted.texts("solution") == ["attempt 1", "attempt 3"], "what teaches is cut last"


# Truncation

GENERATION_HEADER = "<assistant>"


def tokenize_characters(messages):
    """A character-level tokenizer with a chat template."""
    return [ord(c) for m in messages for c in f"<{m['role']}>{text_of(m['content'])}<end>"] + encode(GENERATION_HEADER)


def encode(text):
    return [ord(character) for character in text]


def decode(tokens):
    return "".join(map(chr, tokens))


def fit(prompt, owner, settings, *, to_bytes=False):
    tools = {"tokenize_chat": tokenize_characters, "encode": encode, "decode": decode}
    if to_bytes:
        tools = {
            "tokenize_chat": lambda messages: list(decode(tokenize_characters(messages)).encode()),
            "encode": lambda text: list(text.encode()),
            "decode": lambda tokens: bytes(tokens).decode(errors="replace"),
        }
    return fit_teacher_prompt(prompt, owner, settings, **tools)


def length(messages):
    return len(tokenize_characters(messages))


DEMONSTRATION = "abcdefghij" * 20
SOLUTION_FRAME = (
    "<user>Add 1 and 2.\nCorrect solution:\n\n",
    "\n\nCorrectly solve the original question.<end>" + GENERATION_HEADER,
)
FRAME_LENGTH = sum(map(len, SOLUTION_FRAME))


def test_a_prompt_that_fits_is_untouched():
    prompt = build([rollout(0.0, "too low")])[0]
    settings = replace(SETTINGS, max_reprompt_len=length(prompt.messages))
    assert fit(prompt, rollout(), settings) == (prompt, tokenize_characters(prompt.messages))


@pytest.mark.parametrize(("side", "kept"), [("right", DEMONSTRATION[:57]), ("left", DEMONSTRATION[-57:])])
def test_only_the_demonstration_is_cut(side, kept):
    settings = replace(SETTINGS, max_reprompt_len=FRAME_LENGTH + 57, reprompt_truncation=side)
    owner = rollout()
    prompt = build([owner, rollout(1.0, response=DEMONSTRATION)], settings)[0]
    fitted, token_ids = fit(prompt, owner, settings)
    assert fitted.truncated
    assert not prompt.truncated
    assert fitted.demonstration == kept
    assert decode(token_ids) == SOLUTION_FRAME[0] + kept + SOLUTION_FRAME[1]
    assert len(token_ids) == settings.max_reprompt_len
    assert token_ids == tokenize_characters(fitted.messages)


def test_the_longer_of_both_is_cut_and_the_other_follows_when_needed():
    settings = replace(SETTINGS, environment_feedback_only_without_solution=False)
    owner = rollout(0.0, "f" * 50)
    prompt = build([owner, rollout(1.0, response="d" * 80)], settings)[0]
    whole = length(prompt.messages)
    fitted, _ = fit(prompt, owner, replace(settings, max_reprompt_len=whole - 70))
    assert (fitted.demonstration, fitted.feedback) == ("d" * 10, "f" * 50)
    fitted, _ = fit(prompt, owner, replace(settings, max_reprompt_len=whole - 120))
    assert fitted.demonstration is None
    assert fitted.feedback
    assert set(fitted.feedback) == {"f"}
    assert fitted.has_context


def test_a_prompt_that_loses_everything_has_no_target_and_reads_like_the_students():
    owner = rollout()
    prompt = build([owner, rollout(1.0, response=DEMONSTRATION)])[0]
    fitted, token_ids = fit(prompt, owner, replace(SETTINGS, max_reprompt_len=FRAME_LENGTH))
    assert not fitted.has_context
    assert fitted.truncated
    assert fitted.messages == QUESTION
    assert token_ids == tokenize_characters(QUESTION)


def test_a_limit_below_the_question_names_the_sample():
    owner = rollout(uid="task-7")
    prompt = build([owner, rollout(1.0, response=DEMONSTRATION, uid="task-7")])[0]
    limit = length(QUESTION) - 1
    with pytest.raises(ValueError, match=f"sample task-7.*{limit + 1} tokens.*max_reprompt_len={limit}"):
        fit(prompt, owner, replace(SETTINGS, max_reprompt_len=limit))


def test_error_truncation_names_the_sample_and_the_remedy():
    settings = replace(SETTINGS, max_reprompt_len=100, reprompt_truncation="error")
    owner = rollout(uid="task-7")
    prompt = build([owner, rollout(1.0, response=DEMONSTRATION, uid="task-7")], settings)[0]
    with pytest.raises(ValueError, match=r"sample task-7.*max_reprompt_len=100.*reprompt_truncation to left or right"):
        fit(prompt, owner, settings)


def test_a_tokenizer_whose_texts_grow_again_does_not_hang():
    """Each cut of one token comes back as one token: only cutting further ends."""
    owner = rollout()
    prompt = build([owner, rollout(1.0, response="abc")])[0]
    fitted, token_ids = fit_teacher_prompt(
        prompt,
        owner,
        replace(SETTINGS, max_reprompt_len=FRAME_LENGTH + 2),
        tokenize_chat=tokenize_characters,
        encode=encode,
        decode=lambda tokens: decode(tokens) + "." * bool(tokens),
    )
    assert fitted.demonstration == "a."
    assert len(token_ids) == FRAME_LENGTH + 2


@examples(max_examples=100, deadline=None)
@given(
    demonstration=st.text(st.characters(codec="utf-8"), max_size=60),
    feedback=st.text(st.characters(codec="utf-8"), max_size=60),
    side=st.sampled_from(["left", "right"]),
    room=st.integers(0, 200),
)
def test_any_text_fits_any_possible_limit(demonstration, feedback, side, room):
    """With one token per byte, cuts fall inside characters; none may show, and the frame stays whole."""
    settings = replace(SETTINGS, environment_feedback_only_without_solution=False, reprompt_truncation=side)
    settings = replace(settings, max_reprompt_len=length(QUESTION) + room)
    owner = rollout(0.0, feedback)
    prompt = build([owner, rollout(1.0, response=demonstration)], settings)[0]
    fitted, token_ids = fit(prompt, owner, settings, to_bytes=True)
    text = bytes(token_ids).decode()
    assert len(token_ids) <= settings.max_reprompt_len
    assert text.startswith("<user>Add 1 and 2.")
    assert text.endswith("<end>" + GENERATION_HEADER)
    assert ("\n\nCorrectly solve the original question." in text) == fitted.has_context
    for cut, whole in ((fitted.demonstration, prompt.demonstration), (fitted.feedback, prompt.feedback)):
        assert cut is None or (whole.startswith(cut) if side == "right" else whole.endswith(cut))


# Metrics


def test_metrics_of_a_batch():
    """Group a: solved, its owner has nothing to see. Group b: feedback only. Group c: padding, does not count."""
    rollouts = [
        rollout(1.0, uid="a"),
        rollout(0.0, "too low", uid="a"),
        rollout(0.0, "too high", uid="b"),
        rollout(0.0, uid="b"),
        rollout(1.0, "padding", uid="c", graded=False),
    ]
    prompts = build(rollouts)
    prompts[2] = replace(prompts[2], truncated=True)
    assert reprompt_metrics(rollouts, prompts, SETTINGS) == {
        "self_distillation/success_group_fraction": 1 / 2,
        "self_distillation/success_sample_fraction": 1 / 4,
        "self_distillation/feedback_available_fraction": 2 / 4,
        "self_distillation/feedback_used_fraction": 1 / 4,
        "self_distillation/reprompt_sample_fraction": 2 / 4,
        "self_distillation/truncated_reprompt_fraction": 1 / 4,
    }


def test_metrics_of_nothing_are_zero():
    assert set(reprompt_metrics([], [], SETTINGS).values()) == {0.0}
