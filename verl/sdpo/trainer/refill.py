"""A sampler of verl's that generates further questions until enough of them have a teacher."""

import time

import transfer_queue as tq
from transfer_queue import KVBatchMeta

from verl.sdpo.teacher_rows import teacher_prompts
from verl.sdpo.trainer.samples import plain, to_rollout
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.utils.config import omega_conf_to_dataclass

# What a teacher would read does not matter, but for a response that is nothing but thinking, or a prompt that is cut.
QUESTION = [{"role": "user", "content": "?"}]
RESPONSE = "?"


class RefillBuffer(ReplayBuffer):
    """`trainer.v1.sampler.custom_sampler` of sdpo.yaml, with `data.refill_until_target`.

    A group in which no sample has a demonstration or feedback teaches nothing. For each such group another question is
    generated, in at most `data.refill_until_target` rounds. Then the groups that teach fill the batch; what is missing
    comes from the others, and what is left over is thrown away: the next step samples with another policy.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.settings = omega_conf_to_dataclass(self.sampler_kwargs["self_distillation"])

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict]:
        """See `ReplayBuffer.sample`."""
        if partition_id == "val":
            return super().sample(global_steps, partition_id, batch_size)
        rounds = refilled = 0
        taught = self._wait_for_all(partition_id, batch_size)
        most = self.sampler_kwargs["rounds"]
        # A group that failed ends the step (supervision.py), chosen or not.
        while (missing := batch_size - len(taught)) > 0 and rounds < most and not self.failure_keys[partition_id]:
            self.refill_fn(missing)
            rounds, refilled = rounds + 1, refilled + missing
            taught = self._wait_for_all(partition_id, batch_size)
        trajectories = self.partitions[partition_id]
        generated = sum(tag["response_len"] for tag in trajectories.values())
        finished = self._finished(partition_id)
        # Of equals those that were asked for first.
        chosen = sorted(finished, key=lambda uid: uid not in taught)[:batch_size]
        self._clear_groups(partition_id, set(finished) - set(chosen) - self.failure_keys[partition_id])
        metrics = {
            "training/refill/rounds": rounds,
            "training/refill/questions": refilled,
            "training/refill/taught_fraction": min(len(taught) / batch_size, 1.0),
            "training/refill/generated_tokens": generated,
        }
        return self._materialize_batch(partition_id, chosen, dict(trajectories)), metrics

    def _finished(self, partition_id: str) -> list[str]:
        """In the order in which they were asked for."""
        ended = self.finished_keys[partition_id] | self.failure_keys[partition_id]
        return [uid for uid in self.prompt_global_steps[partition_id] if uid in ended]

    def _wait_for_all(self, partition_id: str, batch_size: int) -> set[str]:
        """The groups that teach, once all that was asked for is finished."""
        last_debug_time = time.time()
        while True:
            self._sync_metadata_from_transfer_queue()
            waiting = self.pending_keys[partition_id] | self.running_keys[partition_id]
            if not waiting and len(self._finished(partition_id)) >= batch_size:
                return self._taught(partition_id)
            last_debug_time = self._wait_for_next_poll(partition_id, last_debug_time)

    def _taught(self, partition_id: str) -> set[str]:
        keys = list(self.partitions[partition_id])
        if not keys:
            return set()
        data = tq.kv_batch_get(keys=keys, partition_id=partition_id, select_fields=["rm_scores", "extra_fields"])
        scores = data["rm_scores"].to_padded_tensor(0.0).sum(-1).tolist()
        rollouts = [
            to_rollout(key, key.split("_")[0], QUESTION, RESPONSE, score, extra.get("reward_extra_info", {}))
            for key, score, extra in zip(keys, scores, plain(data["extra_fields"]), strict=True)
        ]
        prompts, weights = teacher_prompts(self.settings, rollouts, step=0)
        return {
            rollout.uid
            for rollout, prompt, weight in zip(rollouts, prompts, weights, strict=True)
            # What a grader broke is kept, so that `max_grader_error_rate` sees it.
            if (prompt.has_context and weight > 0) or not rollout.graded
        }
