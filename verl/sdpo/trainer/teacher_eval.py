"""How well the teacher would answer itself, while the student learns from it (Figure 10 right of arXiv 2601.20802)."""

import random
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import transfer_queue as tq
from transfer_queue import KVBatchMeta

from verl.sdpo.trainer.rollout import TEACHER_AGENT
from verl.sdpo.trainer.samples import plain
from verl.utils import tensordict_utils as tu
from verl.utils.debug import marked_timer

if TYPE_CHECKING:
    from verl.sdpo.trainer.trainer import TeacherRowsMixin as Trainer
else:
    Trainer = object

# What an agent loop and the reward function need of a question (verl/utils/dataset/rl_dataset.py:387).
COLUMNS = ("data_source", "reward_model", "extra_info", "index")


class TeacherEvalMixin(Trainer):
    """Over a trainer with a builder of teacher rows: every `insight.teacher_eval_freq` steps, and at the first one, the
    *student's current weights* answer teacher prompts of the batch, as a validation samples.

    Those are the weights that vLLM holds. A teacher that lags behind, or is fixed, differs from them.
    """

    def _compute_metrics(self, batch: KVBatchMeta, metrics: dict, timing_raw: dict, global_steps: int, epoch: int):
        frequency = (self.config.get("insight") or {}).get("teacher_eval_freq")
        # Here vLLM is awake with the new weights, and the batch still in TransferQueue.
        if frequency and (global_steps == 1 or global_steps % frequency == 0):
            with marked_timer("teacher_eval", timing_raw, color="green"):
                metrics |= self._evaluate_teacher(batch, global_steps)
        super()._compute_metrics(batch, metrics, timing_raw, global_steps, epoch)

    def _evaluate_teacher(self, batch: KVBatchMeta, step: int) -> dict[str, float]:
        """At most as many answers as a validation has."""
        samples = self._samples(batch)
        rows = self.teacher_row_builder.build(samples, step)
        taught = [number for number, prompt in enumerate(rows.prompts) if prompt.has_context]
        limit = len(self.val_dataset) * self.config.actor_rollout_ref.rollout.val_kwargs.n
        chosen = sorted(random.Random(step).sample(taught, min(limit, len(taught))))
        if not chosen:
            return {}
        questions = tq.kv_batch_get(
            keys=[batch.keys[number] for number in chosen], partition_id=batch.partition_id, select_fields=list(COLUMNS)
        )
        columns = {name: plain(questions[name]) for name in COLUMNS}
        columns["raw_prompt"] = [rows.prompts[number].messages for number in chosen]
        scores = self._answer(columns, step)
        if not scores:
            return {}
        student = [rows.groups[samples[number].rollout.uid].success_rate for number in chosen]
        return {
            "self_distillation/teacher_accuracy": sum(map(self.settings.grading.is_success, scores)) / len(scores),
            "self_distillation/teacher_accuracy/student": sum(student) / len(student),
            "self_distillation/teacher_accuracy/answers": len(scores),
        }

    def _answer(self, columns: dict[str, list], step: int) -> Sequence[float]:
        """Scores of one answer to each prompt; see verl's `_validate`, whose partition it takes."""
        count = len(columns["raw_prompt"])
        columns = {
            **columns,
            "uid": [str(uuid.uuid4()) for _ in range(count)],
            "__rollout_n__": [1] * count,
            "agent_name": [TEACHER_AGENT] * count,
            "tools_kwargs": [{}] * count,
            "interaction_kwargs": [{}] * count,
        }
        batch = tu.get_tensordict({name: _objects(values) for name, values in columns.items()})
        tu.assign_non_tensor_data(batch, "global_steps", step)
        tu.assign_non_tensor_data(batch, "validate", True)
        tags = [{"is_prompt": True, "status": "pending", "global_steps": step} for _ in range(count)]
        tq.kv_batch_put(keys=columns["uid"], partition_id="val", tags=tags)
        self.agent_loop_manager.generate_sequences(batch)
        answers, _ = self.replay_buffer.sample(global_steps=step, partition_id="val", batch_size=count)
        data = tq.kv_batch_get(keys=answers.keys, partition_id="val", select_fields=["rm_scores"])
        scores = data["rm_scores"].to_padded_tensor(0.0).sum(-1).tolist()
        tq.kv_clear(keys=answers.keys, partition_id="val")
        return scores


def _objects(values: Sequence) -> np.ndarray:
    """A column as verl's `collate_fn` makes it."""
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column
