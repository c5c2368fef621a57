"""The teacher's rows, which each update of SDPO needs beside verl's batch."""

import logging
import os

import torch
from omegaconf import DictConfig

from verl.sdpo.engine.actor_config import make_regularizer
from verl.sdpo.micro_step import reads_every_row
from verl.sdpo.trainer.balance import update_order
from verl.sdpo.trainer.hooks import Extension, RunControl, Update
from verl.sdpo.trainer.refill import RefillBuffer
from verl.sdpo.trainer.samples import make_row_builder
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.debug import marked_timer

logger = logging.getLogger(__name__)
logger.setLevel(os.getenv("VERL_LOGGING_LEVEL", "INFO"))


class TeacherBatch(Extension):
    """Adds `teacher_input_ids` (jagged, teacher prompt + response), `teacher_weight` and `reward_weight` (B,) to an
    update, and balances its order.
    """

    def __init__(self, config: DictConfig):
        actor = config.actor_rollout_ref.actor
        self.settings = omega_conf_to_dataclass(actor.self_distillation)
        self.reads_every_row = reads_every_row(make_regularizer(actor), self.settings.routing)

    def on_start(self, run: RunControl) -> None:
        self.builder = make_row_builder(run.config, self.settings, run.tokenizer)
        self.run = run
        if isinstance(run.replay_buffer, RefillBuffer):
            run.replay_buffer.tokenizer = run.tokenizer

    def before_update(self, update: Update) -> None:
        with marked_timer("teacher_batch", update.timing, color="cyan"):
            rows = update.rows = self.builder.build(update.samples, update.step)
            update.metrics |= rows.metrics
            if rows.warning:
                logger.warning(rows.warning)
            update.columns |= {
                "teacher_input_ids": torch.nested.as_nested_tensor(rows.input_ids, layout=torch.jagged),
                "teacher_weight": rows.weights,
                "reward_weight": rows.reward_weights,
            }
            update.order = update_order(
                update.samples,
                rows,
                reads_every_row=self.reads_every_row,
                teacher_passes=self.settings.teacher_class.passes,
                num_ranks=self.run.num_ranks,
                seed=update.step,
            )
