"""How verl hands samples to the graders: its own loader, its own naive manager, our truncation flag."""

import asyncio
import time

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tensordict import TensorDict

from verl import DataProto
from verl.trainer.ppo.reward import load_reward_manager

RESPONSE_LENGTH = 8


class WordTokenizer:
    """Token 7 is a right answer, 8 a wrong one, everything else is a word."""

    def decode(self, ids, skip_special_tokens):
        assert skip_special_tokens
        return "".join({7: r"\boxed{12}", 8: r"\boxed{13}"}.get(i, "word ") for i in ids.tolist())


@pytest.fixture(scope="module")
def manager():
    package = "pkg://verl.utils.reward_score.feedback"
    config = OmegaConf.create(
        {
            "actor_rollout_ref": {"rollout": {"response_length": RESPONSE_LENGTH, "max_model_len": 14}},
            "reward": {
                "custom_reward_function": {
                    "path": package,
                    "name": "compute_score",
                    "reward_kwargs": {"reveal": "gold", "sandbox": {"workers": 1}},
                },
                "reward_manager": {
                    "source": "importlib",
                    "name": "FeedbackRewardManager",
                    "module": {"path": f"{package}.reward_manager", "name": "feedback"},
                },
            },
        }
    )
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield load_reward_manager(config, WordTokenizer()), loop
    loop.close()


def score(manager, response: list[int], *, prompt_tokens=3, extra_info=None):
    manager, loop = manager
    prompts, responses = torch.ones(1, prompt_tokens, dtype=torch.long), torch.tensor([response])
    mask = torch.ones(1, prompt_tokens + len(response), dtype=torch.long)
    batch = {"prompts": prompts, "responses": responses, "attention_mask": mask}
    fields = {
        "data_source": np.array(["gsm8k"], dtype=object),
        "reward_model": np.array([{"ground_truth": "12"}], dtype=object),
        "extra_info": np.array([extra_info or {"index": "0"}], dtype=object),
        "tool_extra_fields": np.array([{"global_steps": 3}], dtype=object),
    }
    data = DataProto(batch=TensorDict(batch, batch_size=1), non_tensor_batch=fields)
    return loop.run_until_complete(manager.run_single(data))


def test_a_response_within_its_budget_is_whole(manager):
    result = score(manager, [1, 1])
    assert (result["reward_score"], result["reward_extra_info"]["verdict"]) == (0.0, "format_error")
    assert result["reward_extra_info"]["truncated"] == 0


@pytest.mark.parametrize(("tokens", "prompt_tokens"), [(RESPONSE_LENGTH, 3), (4, 10)])
def test_a_response_that_used_up_its_budget_is_truncated(manager, tokens, prompt_tokens):
    info = score(manager, [1] * tokens, prompt_tokens=prompt_tokens)["reward_extra_info"]
    assert (info["verdict"], info["truncated"]) == ("truncated", 1)


def test_a_complete_answer_is_judged_even_at_the_end_of_the_budget(manager):
    result = score(manager, [1] * (RESPONSE_LENGTH - 1) + [7])
    assert (result["reward_score"], result["reward_extra_info"]["truncated"]) == (1.0, 1)


def test_reward_kwargs_reach_the_grader(manager):
    info = score(manager, [8])["reward_extra_info"]
    assert info["feedback"] == "Wrong Answer\nThe final answer 13 is not correct.\nThe correct answer is 12."


# A reward function that hangs


@pytest.fixture
def slow(manager):
    """`slow(seconds...)` grades so many responses at once, each of which takes so long, with a limit of 0.3 s."""
    manager, loop = manager
    manager.config.reward.grader_timeout = 0.3

    async def grade(seconds: float) -> dict:
        await asyncio.sleep(seconds)
        return {"seconds": seconds}

    async def grade_all(seconds):
        return await asyncio.gather(
            *(manager._answer(grade(each), f"code {each}") for each in seconds), return_exceptions=True
        )

    yield lambda *seconds: loop.run_until_complete(grade_all(seconds))
    del manager.config.reward.grader_timeout


def test_a_long_queue_is_not_taken_for_a_hang(slow):
    """The last waits for 0.6 s, twice the limit, while the others are graded."""
    assert [result["seconds"] for result in slow(0.15, 0.3, 0.45, 0.6)] == [0.15, 0.3, 0.45, 0.6]


def test_a_reward_function_that_hangs_is_named(slow):
    answered, hung = slow(0.1, 60)
    assert answered == {"seconds": 0.1}
    assert isinstance(hung, TimeoutError)
    assert "no response was graded for reward.grader_timeout=0.3 s" in str(hung)
    assert "an answer to code 60" in str(hung)


def test_it_counts_from_the_last_response_and_not_from_an_earlier_step(slow):
    slow(0.01)
    time.sleep(0.4)
    assert slow(0.1) == [{"seconds": 0.1}]
