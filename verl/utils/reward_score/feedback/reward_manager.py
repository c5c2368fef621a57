"""verl's naive reward manager, which also tells `compute_score` whether the response was cut, and notices a hang.

Chosen by `reward.reward_manager.source=importlib`, `.name=FeedbackRewardManager` and
`.module.path=pkg://verl.utils.reward_score.feedback.reward_manager`.
"""

import asyncio
import math
import time
from collections.abc import Coroutine

from verl import DataProto
from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager


class FeedbackRewardManager(NaiveRewardManager):
    """Sets `extra_info["truncated"]` of each sample before it is scored.

    verl 0.9.1 reports vLLM's stop reasons "stop" and "length" alike as "completed" and hands neither to the reward
    manager. So the rule is the one by which verl itself calls a response cut: it has used up the token budget that
    verl gave the engine. A missing EOS says nothing, since models end their turns with other tokens too.

    A reward function that hangs would be waited for without end. So the training ends when none of the responses at
    hand was graded for `reward.grader_timeout` seconds; one that waits for its turn while others are graded may.
    """

    _grading = 0
    _last_answer = 0.0

    async def run_single(self, data: DataProto) -> dict:
        sample = data[-1:]
        rollout = self.config.actor_rollout_ref.rollout
        attention_mask = sample.batch["attention_mask"][0]
        response_tokens = int(attention_mask[-sample.batch["responses"].shape[-1] :].sum())
        context_full = rollout.max_model_len is not None and int(attention_mask.sum()) >= rollout.max_model_len
        extra_info = dict(sample.non_tensor_batch.get("extra_info", [{}])[0])
        extra_info["truncated"] = response_tokens >= rollout.response_length or context_full
        sample.non_tensor_batch["extra_info"][0] = extra_info
        name = f"{sample.non_tensor_batch['data_source'][0]} {extra_info.get('index', '(no index)')}"
        return await self._answer(super().run_single(sample), name)

    async def _answer(self, grading: Coroutine, name: str) -> dict:
        if not self._grading:
            self._last_answer = time.monotonic()
        self._grading += 1
        task = asyncio.ensure_future(grading)
        try:
            timeout = self.config.reward.get("grader_timeout") or math.inf
            while not (await asyncio.wait({task}, timeout=self._last_answer + timeout - time.monotonic()))[0]:
                if time.monotonic() >= self._last_answer + timeout:
                    raise TimeoutError(
                        f"The reward function hangs: no response was graded for reward.grader_timeout={timeout} s. One "
                        f"of those that it was given is an answer to {name}. Fix it, or raise the limit."
                    )
            self._last_answer = time.monotonic()
            return task.result()
        finally:
            self._grading -= 1
