"""verl's V1 trainers plus one step: the teacher's rows are written before the actor is updated."""

import logging
import os

import ray
import torch
import transfer_queue as tq
from omegaconf import DictConfig
from tensordict import TensorDict
from transfer_queue import KVBatchMeta

from verl.sdpo.config import is_lora
from verl.sdpo.engine.losses import make_regularizer
from verl.sdpo.engine.worker import SelfDistillationWorker
from verl.sdpo.micro_step import reads_every_row
from verl.sdpo.teacher_rows import Sample
from verl.sdpo.trainer.balance import update_order
from verl.sdpo.trainer.dump import DumpMixin
from verl.sdpo.trainer.refill import RefillBuffer
from verl.sdpo.trainer.samples import make_row_builder, read_samples
from verl.sdpo.trainer.throughput import ThroughputMixin
from verl.trainer.ppo.utils import Role
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.debug import marked_timer

logger = logging.getLogger(__name__)
logger.setLevel(os.getenv("VERL_LOGGING_LEVEL", "INFO"))


class TeacherRowsMixin(DumpMixin, ThroughputMixin):
    """Over any of verl's V1 trainers. They all train on whole groups: what an asynchronous one samples is a question
    whose attempts are all finished, so that a sample's siblings are there when its teacher's row is built.
    """

    def __init__(self, config: DictConfig):
        actor = config.actor_rollout_ref.actor
        self.settings = omega_conf_to_dataclass(actor.self_distillation)
        self.reads_every_row = reads_every_row(make_regularizer(actor), self.settings.routing)
        super().__init__(config)

    def _init_resource_pool_mgr(self):
        super()._init_resource_pool_mgr()
        # verl builds a ref model only for a KL penalty; here it is the teacher, so the role changes in both mappings
        # (the resource pool manager holds a reference to `self.mapping`).
        role = Role.ActorRollout if Role.ActorRollout in self.role_worker_mapping else Role.ActorRolloutRef
        del self.role_worker_mapping[role]
        pool = self.mapping.pop(role)
        role = Role.ActorRolloutRef if self.settings.teacher_kind.needs_second_model(is_lora(self.config)) else role
        self.role_worker_mapping[role] = ray.remote(SelfDistillationWorker)
        self.mapping[role] = pool

    def _init_tokenizer(self):
        super()._init_tokenizer()
        self.teacher_row_builder = make_row_builder(self.config, self.settings, self.tokenizer)
        if isinstance(self.replay_buffer, RefillBuffer):
            self.replay_buffer.tokenizer = self.tokenizer

    def _update_actor(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        with marked_timer("teacher_batch", self.timing_raw, color="cyan"):
            batch = self._add_teacher_rows(batch, metrics)
        batch = super()._update_actor(batch, metrics)
        self._end_dump()
        # verl prefixes all that its worker reports.
        metrics |= {k.removeprefix("actor/"): metrics.pop(k) for k in [*metrics] if k.startswith("actor/self_dist")}
        return batch

    def _add_teacher_rows(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        """Write `teacher_input_ids` (jagged, teacher prompt + response) and `teacher_weight`, `reward_weight` (B,)."""
        rows = self.teacher_row_builder.build(samples := self._samples(batch), self.global_steps)
        metrics.update(rows.metrics)
        if rows.warning:
            logger.warning(rows.warning)
        fields = {
            "teacher_input_ids": torch.nested.as_nested_tensor(rows.input_ids, layout=torch.jagged),
            "teacher_weight": rows.weights,
            "reward_weight": rows.reward_weights,
            **self._begin_dump(batch, samples, rows),
        }
        fields = TensorDict(fields, len(samples))
        # Only the meta that comes back carries the new fields to the workers.
        written = tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)
        written.extra_info.update(batch.extra_info)
        order = update_order(
            samples,
            rows,
            reads_every_row=self.reads_every_row,
            num_ranks=max(self.actor_rollout_wg._dispatch_info["actor"]) + 1,
            seed=self.global_steps,
        )
        written.reorder(order)
        return written

    def _samples(self, batch: KVBatchMeta) -> list[Sample]:
        return read_samples(batch, self.tokenizer)
