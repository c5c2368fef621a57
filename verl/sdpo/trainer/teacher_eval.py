"""Accuracy of the teacher's own answers while the student learns from it (Figure 10 right of arXiv 2601.20802)."""

import random
import uuid
from collections.abc import Sequence

import numpy as np
import transfer_queue as tq
from omegaconf import DictConfig
from transfer_queue import KVBatchMeta

from verl.sdpo.config import parse_block
from verl.sdpo.trainer.hooks import Extension, RunControl
from verl.sdpo.trainer.rollout import TEACHER_AGENT
from verl.sdpo.trainer.samples import make_row_builder, plain
from verl.utils import tensordict_utils as tu
from verl.utils.debug import marked_timer

# Columns of a question that an agent loop and the reward function read (verl/utils/dataset/rl_dataset.py:387).
COLUMNS = ("data_source", "reward_model", "extra_info", "index")


class TeacherEval(Extension):
    """Every `insight.teacher_eval_freq` steps, and at the first one, the *student's current weights* answer teacher
    prompts of the batch, sampled as a validation is.

    Those are the weights that vLLM holds. A teacher that lags behind, or is fixed, differs from them.
    """

    def __init__(self, config: DictConfig):
        self.frequency = (config.get("insight") or {}).get("teacher_eval_freq")
        self.settings = parse_block(config)

    def on_start(self, run: RunControl) -> None:
        if self.frequency:
            self.run = run
            self.builder = make_row_builder(run.config, self.settings, run.tokenizer)

    def after_step(self, step: int, batch: KVBatchMeta, metrics: dict) -> None:
        if self.frequency and (step == 1 or step % self.frequency == 0):
            with marked_timer("timing_s/teacher_eval", metrics, color="green"):
                metrics |= self._evaluate(batch, step)

    def _evaluate(self, batch: KVBatchMeta, step: int) -> dict[str, float]:
        """Return the teacher's accuracy over at most as many answers as a validation has."""
        samples = self.run.read_samples(batch)
        rows = self.builder.build(samples, step)
        taught = [number for number, prompt in enumerate(rows.prompts) if prompt.has_context]
        limit = len(self.run.val_dataset) * self.run.config.actor_rollout_ref.rollout.val_kwargs.n
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
        """Return the score of one answer to each prompt; sampled as in verl's `_validate`, in the same partition."""
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
        self.run.agent_loop_manager.generate_sequences(batch)
        answers, _ = self.run.replay_buffer.sample(global_steps=step, partition_id="val", batch_size=count)
        data = tq.kv_batch_get(keys=answers.keys, partition_id="val", select_fields=["rm_scores"])
        scores = data["rm_scores"].to_padded_tensor(0.0).sum(-1).tolist()
        tq.kv_clear(keys=answers.keys, partition_id="val")
        return scores


def _objects(values: Sequence) -> np.ndarray:
    """Return a column as verl's `collate_fn` makes it."""
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column
