"""The trainer of test-time SDPO: SDPO's trainer, which also logs attempts and ends when its question is solved."""

import logging
import os
from collections.abc import Sequence
from typing import Any

import transfer_queue as tq
from omegaconf import DictConfig
from transfer_queue import KVBatchMeta

from verl.sdpo.adapters.trainer import SelfDistillationTrainer, plain
from verl.sdpo.test_time.log import conclusion
from verl.sdpo.test_time.training import TRAINER_MODE, QuestionSearch
from verl.trainer.ppo.v1.trainer_base import register_trainer

logger = logging.getLogger(__name__)
logger.setLevel(os.getenv("VERL_LOGGING_LEVEL", "INFO"))


class SearchMixin:
    """Put before a trainer of verl: it then searches for a solution of one question (`config.test_time`)."""

    # Of the trainer.
    tokenizer: Any
    global_steps: int
    total_training_steps: int

    def __init__(self, config: DictConfig):
        self.search = QuestionSearch(config)
        super().__init__(config)  # type: ignore[call-arg]

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()  # type: ignore[misc]
        note = self.search.resume(self.global_steps)
        if note:
            logger.warning(note)
        self._end_if_over()

    def _update_actor(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        """Log the attempts of this step before anything else can fail; after the last one no update is made."""
        self._log_attempts(batch)
        if self._end_if_over():
            return batch
        return super()._update_actor(batch, metrics)  # type: ignore[misc]

    def _log_attempts(self, batch: KVBatchMeta) -> None:
        fields = ["input_ids", "responses", "extra_fields"]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
        rows, responses = data["input_ids"].unbind(), data["responses"].unbind()
        texts: Sequence[str] = self.tokenizer.batch_decode(responses, skip_special_tokens=True)
        extra_fields = plain(data["extra_fields"])
        # Rows that verl appended to fill the batch are no attempts.
        real = [i for i, tag in enumerate(batch.tags) if not tag.get("is_padding", False)]
        # Keys are {uid}_{session}_{index of the loop's output} (verl/trainer/ppo/v1/agent_loop_tq.py).
        for i in sorted(real, key=lambda i: int(batch.keys[i].rsplit("_", 2)[1])):
            tokens = len(rows[i]) - len(responses[i]), len(responses[i])
            self.search.record(self.global_steps, texts[i], tokens, extra_fields[i]["reward_extra_info"])

    def _end_if_over(self) -> bool:
        if not self.search.over:
            return False
        # verl's fit() goes on while global_steps <= total_training_steps.
        self.total_training_steps = self.global_steps
        logger.warning(conclusion(self.search.log))
        return True


@register_trainer(TRAINER_MODE)
class QuestionTrainer(SearchMixin, SelfDistillationTrainer):
    pass
