"""Agent loops: one whose sampling depends on the seed and the sample, not on timing, and one for teacher prompts."""

import zlib
from typing import Any

from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, register
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop

TEACHER_AGENT = "teacher_single_turn_agent"


@register("seeded_single_turn_agent")
class SeededSingleTurnAgentLoop(SingleTurnAgentLoop):
    """verl's single-turn loop with one sampling seed per response.

    vLLM otherwise draws from one generator in the order in which requests happen to arrive, which differs between two
    runs and after a resume; verl's `full_determinism` gives all responses of a prompt the same seed, hence the same
    text. Chosen by `actor_rollout_ref.rollout.agent.default_agent_loop=seeded_single_turn_agent`. On GPUs vLLM samples
    seeded requests one by one, which costs speed.
    """

    async def run(self, sampling_params: dict[str, Any], **kwargs) -> AgentLoopOutput:
        # The index is that of `extra_info`, 0 in data without one; two rows with the same question have different ones.
        sample = (kwargs["global_steps"], kwargs["index"], kwargs["session_id"], list(kwargs["raw_prompt"]))
        seed = zlib.crc32(f"{self.rollout_config.seed}/{sample}".encode())
        return await super().run({**sampling_params, "seed": seed}, **kwargs)


@register(TEACHER_AGENT)
class TeacherAgentLoop(SingleTurnAgentLoop):
    """Answers a prompt longer than `data.max_prompt_length` with a response of full length, sampled as in training.

    verl would take from the response what the prompt is too long (verl/workers/rollout/vllm_rollout/
    vllm_async_server.py:611), down to one token, and sample as in validation, while the student's accuracy beside it is
    that of its training responses.
    """

    async def run(self, sampling_params: dict[str, Any], **kwargs) -> AgentLoopOutput:
        config = self.rollout_config
        as_in_training = {"temperature": config.temperature, "top_p": config.top_p, "top_k": config.top_k}
        length = {"max_tokens": config.response_length}
        return await super().run({**sampling_params, **as_in_training, **length}, **kwargs)
