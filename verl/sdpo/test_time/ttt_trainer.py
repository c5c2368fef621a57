"""Test-time SDPO: the trainer with a log of attempts, which ends once the question is solved or the budget used up."""

import logging
import os
from typing import TYPE_CHECKING

from omegaconf import DictConfig
from transfer_queue import KVBatchMeta

from verl.sdpo.config import TEST_TIME_MODE
from verl.sdpo.test_time.log import conclusion
from verl.sdpo.test_time.question_search import QuestionSearch
from verl.sdpo.trainer.trainers import SelfDistillationTrainer
from verl.trainer.ppo.v1.trainer_base import register_trainer

logger = logging.getLogger(__name__)
logger.setLevel(os.getenv("VERL_LOGGING_LEVEL", "INFO"))


if TYPE_CHECKING:
    Trainer = SelfDistillationTrainer
else:
    Trainer = object


class SearchMixin(Trainer):
    """Over a trainer with teacher rows: logs the attempts of each step before they are learnt from."""

    def __init__(self, config: DictConfig):
        self.search = QuestionSearch(config)
        super().__init__(config)

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        note = self.search.resume(self.global_steps)
        if note:
            logger.warning(note)
        self._end_if_over()

    def _update_actor(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        attempts = [sample for sample in self._samples(batch) if not sample.rollout.is_padding]
        for sample in sorted(attempts, key=lambda sample: sample.rollout.attempt):
            tokens = len(sample.prompt_ids), len(sample.response_ids)
            self.search.record(self.global_steps, sample.rollout.response, tokens, sample.rollout.reward)
        return batch if self._end_if_over() else super()._update_actor(batch, metrics)

    def _end_if_over(self) -> bool:
        """Whether the question needs no more attempts; then verl's loop ends after this step."""
        if not self.search.over:
            return False
        # verl's fit() goes on while global_steps <= total_training_steps.
        self.total_training_steps = self.global_steps
        logger.warning(conclusion(self.search.log))
        return True


@register_trainer(TEST_TIME_MODE)
class QuestionTrainer(SearchMixin, SelfDistillationTrainer):
    """SDPO's trainer on one question."""
