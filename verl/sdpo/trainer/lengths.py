"""Lengths of questions, teacher prompts and samples, which have to fit into each other."""

from collections.abc import Mapping

from verl.sdpo.checks import BLOCK, refusal
from verl.sdpo.config import longest_sample, parse_block


def check(config: Mapping) -> None:
    """Refuse lengths with which a question, a teacher prompt or a sample would not fit."""
    actor, data = config["actor_rollout_ref"]["actor"], config["data"]
    teacher_prompt = parse_block(config).prompt.max_reprompt_len
    longest = longest_sample(data["max_prompt_length"], data["max_response_length"], teacher_prompt)
    if actor["use_dynamic_bsz"] and longest > actor["ppo_max_token_len_per_gpu"]:
        raise refusal(
            {
                "actor_rollout_ref.actor.ppo_max_token_len_per_gpu": actor["ppo_max_token_len_per_gpu"],
                "data.max_prompt_length": data["max_prompt_length"],
                f"{BLOCK}.max_reprompt_len": teacher_prompt,
                "data.max_response_length": data["max_response_length"],
            },
            f"one sample, student and teacher, has up to {longest} tokens (both prompts and twice the response) and "
            "would not fit into a micro-batch",
            f"Raise ppo_max_token_len_per_gpu to {longest}.",
        )
    if not data["filter_overlong_prompts"]:
        raise refusal(
            {"data.filter_overlong_prompts": False},
            "verl would cut long questions off for the student, and the teacher would read the whole question",
            "Set data.filter_overlong_prompts=True.",
        )
    if teacher_prompt < data["max_prompt_length"]:
        raise refusal(
            {f"{BLOCK}.max_reprompt_len": teacher_prompt, "data.max_prompt_length": data["max_prompt_length"]},
            "the question alone may not fit into the teacher prompt",
            "Raise max_reprompt_len.",
        )
