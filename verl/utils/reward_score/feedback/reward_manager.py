"""verl's naive reward manager, which also tells `compute_score` whether the response was cut.

Chosen by `reward.reward_manager.source=importlib`, `.name=FeedbackRewardManager` and
`.module.path=pkg://verl.utils.reward_score.feedback.reward_manager`.
"""

from verl import DataProto
from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager


class FeedbackRewardManager(NaiveRewardManager):
    """Sets `extra_info["truncated"]` of each sample before it is scored.

    verl 0.9.1 reports vLLM's stop reasons "stop" and "length" alike as "completed" and hands neither to the reward
    manager. So the rule is the one by which verl itself calls a response cut: it has used up the token budget that
    verl gave the engine. A missing EOS says nothing, since models end their turns with other tokens too.
    """

    async def run_single(self, data: DataProto) -> dict:
        sample = data[-1:]
        rollout = self.config.actor_rollout_ref.rollout
        attention_mask = sample.batch["attention_mask"][0]
        response_tokens = int(attention_mask[-sample.batch["responses"].shape[-1] :].sum())
        context_full = rollout.max_model_len is not None and int(attention_mask.sum()) >= rollout.max_model_len
        extra_info = dict(sample.non_tensor_batch.get("extra_info", [{}])[0])
        extra_info["truncated"] = response_tokens >= rollout.response_length or context_full
        sample.non_tensor_batch["extra_info"][0] = extra_info
        return await super().run_single(sample)
