"""Reproducible rollouts: an agent loop whose sampling depends on the seed and the sample, not on timing."""

import zlib
from typing import Any

from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, register
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop


@register("seeded_single_turn_agent")
class SeededSingleTurnAgentLoop(SingleTurnAgentLoop):
    """verl's single-turn loop with one sampling seed per response.

    vLLM otherwise draws from one generator in the order in which requests happen to arrive, which differs between two
    runs and after a resume; verl's `full_determinism` gives all responses of a prompt the same seed, hence the same
    text. Chosen by `actor_rollout_ref.rollout.agent.default_agent_loop=seeded_single_turn_agent`. On GPUs vLLM samples
    seeded requests one by one, which costs speed.
    """

    async def run(self, sampling_params: dict[str, Any], **kwargs) -> AgentLoopOutput:
        name = f"{self.rollout_config.seed}/{kwargs['global_steps']}/{kwargs['index']}/{kwargs['session_id']}"
        return await super().run({**sampling_params, "seed": zlib.crc32(name.encode())}, **kwargs)
