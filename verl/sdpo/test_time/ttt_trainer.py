"""Test-time SDPO: the trainer with a log of attempts, which ends once the question is solved or the budget used up."""

import logging
import os

from omegaconf import DictConfig

from verl.sdpo.config import TEST_TIME_MODE
from verl.sdpo.test_time.log import conclusion
from verl.sdpo.test_time.question_search import QuestionSearch
from verl.sdpo.trainer.hooks import Extension, RunControl, Update
from verl.sdpo.trainer.trainers import SDPO, SelfDistillationSync
from verl.trainer.ppo.v1.trainer_base import register_trainer

logger = logging.getLogger(__name__)
logger.setLevel(os.getenv("VERL_LOGGING_LEVEL", "INFO"))


class AttemptRecorder(Extension):
    """Logs the attempts of each step before they are trained on, and ends the run when no more are needed."""

    def __init__(self, config: DictConfig):
        self.search = QuestionSearch(config)

    def on_start(self, run: RunControl) -> None:
        self.run = run
        note = self.search.resume(run.global_steps)
        if note:
            logger.warning(note)
        self._end_if_over()

    def before_update(self, update: Update) -> None:
        attempts = [sample for sample in update.samples if not sample.rollout.is_padding]
        for sample in sorted(attempts, key=lambda sample: sample.rollout.attempt):
            tokens = len(sample.prompt_ids), len(sample.response_ids)
            self.search.record(update.step, sample.rollout.response, tokens, sample.rollout.reward)
        update.is_skipped = self._end_if_over()

    def _end_if_over(self) -> bool:
        """End the run with the present step if the question needs no more attempts; return True if so."""
        if not self.search.over:
            return False
        self.run.end_after_this_step(save=False)
        logger.warning(conclusion(self.search.log))
        return True


@register_trainer(TEST_TIME_MODE)
class QuestionTrainer(SelfDistillationSync):
    """SDPO's trainer on one question."""

    # The first: an update that is skipped needs no teacher rows.
    extension_types = (AttemptRecorder, *SDPO)
