"""The teacher's prompt: rendered from sections, and fitted to a length."""

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from tests.sdpo.rollouts import QUESTION, attempts, build, rollout
from verl.sdpo.config import SelfDistillationConfig
from verl.sdpo.context import Demonstration, FailedAttempts, OwnAttempt
from verl.sdpo.prompt import PromptConfig, fill, fit_teacher_prompt, text_of

# Rendering


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
    rollouts = [rollout(0.0, "4 is too high"), rollout(1.0, response="3")]
    prompts = build(rollouts, environment_feedback_only_without_solution=False)
    assert prompts[0].messages[0]["content"] == (
        "Add 1 and 2.\nCorrect solution:\n\n3\n"
        "The following is feedback from your unsuccessful earlier attempt:\n\n4 is too high\n\n"
        "Correctly solve the original question."
    )


# Templates and texts


def test_braces_in_data_and_templates_stay():
    template = '{prompt}|{solution}|{feedback}|{} {0} {x!r} {{"a": 1}}'
    messages = [{"role": "user", "content": "json {solution} {"}]
    rollouts = [rollout(messages=messages), rollout(1.0, response='{"a": {prompt}}', messages=messages)]
    prompts = build(rollouts, reprompt_template=template)
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


def test_templates_without_a_place_for_what_is_asked_for_are_refused():
    template = "{prompt}{solution}{feedback}"
    assert SelfDistillationConfig(reprompt_template=template)
    for block, place in (
        ({"include_own_attempt": True}, "attempt"),
        ({"num_failed_attempts": 1}, "failed_attempts"),
    ):
        with pytest.raises(ValueError, match="reprompt_template=.*contains {" + place + "}"):
            SelfDistillationConfig(reprompt_template=template, **block)


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


# Truncation

GENERATION_HEADER = "<assistant>"


def tokenize_characters(messages):
    """A character-level tokenizer with a chat template."""
    return [ord(c) for m in messages for c in f"<{m['role']}>{text_of(m['content'])}<end>"] + encode(GENERATION_HEADER)


def encode(text):
    return [ord(character) for character in text]


def decode(tokens):
    return "".join(map(chr, tokens))


def fit(prompt, owner, *, to_bytes=False, **form):
    tools = {"tokenize_chat": tokenize_characters, "encode": encode, "decode": decode}
    if to_bytes:
        tools = {
            "tokenize_chat": lambda messages: list(decode(tokenize_characters(messages)).encode()),
            "encode": lambda text: list(text.encode()),
            "decode": lambda tokens: bytes(tokens).decode(errors="replace"),
        }
    return fit_teacher_prompt(prompt, owner, PromptConfig(**form), **tools)


def length(messages):
    return len(tokenize_characters(messages))


DEMONSTRATION = "abcdefghij" * 20
SOLUTION_FRAME = (
    "<user>Add 1 and 2.\nCorrect solution:\n\n",
    "\n\nCorrectly solve the original question.<end>" + GENERATION_HEADER,
)
FRAME_LENGTH = sum(map(len, SOLUTION_FRAME))


def test_the_longest_section_is_cut_until_all_fit():
    prompt = attempts(0, 1, 0, 1, include_own_attempt=True, num_demonstrations=2, num_failed_attempts=1)
    whole = length(prompt.messages)
    for room in range(whole - length(QUESTION)):
        fitted, token_ids = fit(prompt, rollout(), max_reprompt_len=whole - room)
        assert len(token_ids) <= whole - room
        assert all(
            any(whole_text.startswith(text) for whole_text in prompt.texts(type(section)))
            for section, text in fitted.shown
        )
        assert fitted.has_context == (fitted.messages != QUESTION)
        if fitted.texts(OwnAttempt) or fitted.texts(FailedAttempts):
            assert fitted.texts(Demonstration) == ["attempt 1", "attempt 3"], "what teaches is cut last"


def test_a_prompt_that_fits_is_untouched():
    prompt = build([rollout(0.0, "too low")])[0]
    assert fit(prompt, rollout(), max_reprompt_len=length(prompt.messages)) == (
        prompt,
        tokenize_characters(prompt.messages),
    )


@pytest.mark.parametrize(("side", "kept"), [("right", DEMONSTRATION[:57]), ("left", DEMONSTRATION[-57:])])
def test_only_the_demonstration_is_cut(side, kept):
    limit = FRAME_LENGTH + 57
    owner = rollout()
    prompt = build([owner, rollout(1.0, response=DEMONSTRATION)])[0]
    fitted, token_ids = fit(prompt, owner, max_reprompt_len=limit, reprompt_truncation=side)
    assert fitted.truncated
    assert not prompt.truncated
    assert fitted.demonstration == kept
    assert decode(token_ids) == SOLUTION_FRAME[0] + kept + SOLUTION_FRAME[1]
    assert len(token_ids) == limit
    assert token_ids == tokenize_characters(fitted.messages)


def test_the_longer_of_both_is_cut_and_the_other_follows_when_needed():
    owner = rollout(0.0, "f" * 50)
    rollouts = [owner, rollout(1.0, response="d" * 80)]
    prompt = build(rollouts, environment_feedback_only_without_solution=False)[0]
    whole = length(prompt.messages)
    fitted, _ = fit(prompt, owner, max_reprompt_len=whole - 70)
    assert (fitted.demonstration, fitted.feedback) == ("d" * 10, "f" * 50)
    fitted, _ = fit(prompt, owner, max_reprompt_len=whole - 120)
    assert fitted.demonstration is None
    assert fitted.feedback
    assert set(fitted.feedback) == {"f"}
    assert fitted.has_context


def test_a_prompt_that_loses_everything_has_no_context_and_reads_like_the_students():
    owner = rollout()
    prompt = build([owner, rollout(1.0, response=DEMONSTRATION)])[0]
    fitted, token_ids = fit(prompt, owner, max_reprompt_len=FRAME_LENGTH)
    assert not fitted.has_context
    assert fitted.truncated
    assert fitted.messages == QUESTION
    assert token_ids == tokenize_characters(QUESTION)


def test_a_limit_below_the_question_names_the_sample():
    owner = rollout(uid="task-7")
    prompt = build([owner, rollout(1.0, response=DEMONSTRATION, uid="task-7")])[0]
    limit = length(QUESTION) - 1
    with pytest.raises(ValueError, match=f"sample task-7.*{limit + 1} tokens.*max_reprompt_len={limit}"):
        fit(prompt, owner, max_reprompt_len=limit)


def test_error_truncation_names_the_sample_and_the_remedy():
    owner = rollout(uid="task-7")
    prompt = build([owner, rollout(1.0, response=DEMONSTRATION, uid="task-7")])[0]
    with pytest.raises(ValueError, match=r"sample task-7.*max_reprompt_len=100.*reprompt_truncation to left or right"):
        fit(prompt, owner, max_reprompt_len=100, reprompt_truncation="error")


def test_a_tokenizer_whose_texts_grow_again_does_not_hang():
    """Each cut of one token comes back as one token: only cutting further ends."""
    owner = rollout()
    prompt = build([owner, rollout(1.0, response="abc")])[0]
    fitted, token_ids = fit_teacher_prompt(
        prompt,
        owner,
        PromptConfig(max_reprompt_len=FRAME_LENGTH + 2),
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
    """Cuts fall inside characters with one token per byte; none may show, and the frame stays complete."""
    limit = length(QUESTION) + room
    owner = rollout(0.0, feedback)
    rollouts = [owner, rollout(1.0, response=demonstration)]
    prompt = build(rollouts, environment_feedback_only_without_solution=False)[0]
    fitted, token_ids = fit(prompt, owner, to_bytes=True, max_reprompt_len=limit, reprompt_truncation=side)
    text = bytes(token_ids).decode()
    assert len(token_ids) <= limit
    assert text.startswith("<user>Add 1 and 2.")
    assert text.endswith("<end>" + GENERATION_HEADER)
    assert ("\n\nCorrectly solve the original question." in text) == fitted.has_context
    for cut, whole in ((fitted.demonstration, prompt.demonstration), (fitted.feedback, prompt.feedback)):
        assert cut is None or (whole.startswith(cut) if side == "right" else whole.endswith(cut))
