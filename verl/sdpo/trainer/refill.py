"""Sampler for verl that generates further questions until enough of them have a teacher context."""

import time
from typing import Any

from transfer_queue import KVBatchMeta

from verl.sdpo.context import Groups
from verl.sdpo.teacher_rows import question_weights, teacher_prompts
from verl.sdpo.trainer.samples import read_samples
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.utils.config import omega_conf_to_dataclass


class RefillBuffer(ReplayBuffer):
    """The `trainer.v1.sampler.custom_sampler` of sdpo.yaml, with `data.refill_until_target`.

    A group in which no sample has a teacher context teaches nothing. For each such group another question is generated,
    in at most `data.refill_until_target` rounds. Then the groups that teach fill the batch; what is missing comes from
    the others, and what is left over is thrown away: the next step samples with another policy.
    """

    tokenizer: Any
    """Decoder of the responses, set by the trainer once it has one."""

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
        """Return the groups that have ended, in the order in which they were asked for."""
        ended = self.finished_keys[partition_id] | self.failure_keys[partition_id]
        return [uid for uid in self.prompt_global_steps[partition_id] if uid in ended]

    def _wait_for_all(self, partition_id: str, batch_size: int) -> set[str]:
        """Return the groups that teach, once all groups that were asked for are finished."""
        last_debug_time = time.time()
        while True:
            self._sync_metadata_from_transfer_queue()
            waiting = self.pending_keys[partition_id] | self.running_keys[partition_id]
            if not waiting and len(self._finished(partition_id)) >= batch_size:
                return self._taught(partition_id)
            last_debug_time = self._wait_for_next_poll(partition_id, last_debug_time)

    def _taught(self, partition_id: str) -> set[str]:
        rows = self.partitions[partition_id]
        if not rows:
            return set()
        samples = read_samples(KVBatchMeta(list(rows), list(rows.values()), partition_id), self.tokenizer)
        rollouts = [sample.rollout for sample in samples]
        groups = Groups(rollouts, self.settings.grading, step=0)
        prompts = teacher_prompts(self.settings, rollouts, groups)
        weights = question_weights(self.settings, rollouts, groups)
        return {
            rollout.uid
            for rollout, prompt, weight in zip(rollouts, prompts, weights, strict=True)
            # A group with a grader error is kept, so that `max_grader_error_rate` sees it.
            if (prompt.has_context and weight > 0) or not rollout.graded
        }
