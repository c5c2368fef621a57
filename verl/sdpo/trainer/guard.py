"""A trainer that watches itself: it hands the guard every step's metrics, and does what the configuration says then."""

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import transfer_queue as tq
from omegaconf import DictConfig
from transfer_queue import KVBatchMeta

from verl.sdpo.config import is_sdpo
from verl.sdpo.runs import checkpoints
from verl.sdpo.runs.guard_rules import VALIDATION, Event, Guard, GuardConfig
from verl.sdpo.trainer.samples import plain
from verl.sdpo.trainer.stop import StoppableMixin

logger = logging.getLogger(__name__)
logger.setLevel(os.getenv("VERL_LOGGING_LEVEL", "INFO"))

# In `trainer.default_local_dir`: an event per line, and what was done about it.
EVENTS = "guard.jsonl"
# In the folder of a checkpoint: what the guard knew then.
STATE = "guard.json"
# In `trainer.default_local_dir`: the guard ended the training.
STOPPED = "stopped_by_guard"
FORMAT = "incorrect_format"


def format_errors(batch: KVBatchMeta) -> dict[str, float]:
    """The share of a batch's answers in a wrong format; nothing where the reward function does not say."""
    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["extra_fields"])
    rewards = [extra.get("reward_extra_info", {}) for extra in plain(data["extra_fields"])]
    flags = [
        float(reward[FORMAT])
        for reward, tag in zip(rewards, batch.tags, strict=True)
        if reward.get(FORMAT) is not None and not tag.get("is_padding", False)
    ]
    return {f"training/{FORMAT}": sum(flags) / len(flags)} if flags else {}


class GuardMixin(StoppableMixin):
    """Over a trainer of verl's, what every training has, GRPO as well; see `verl/sdpo/runs/guard_rules.py`."""

    def __init__(self, config: DictConfig):
        self.guard = Guard(GuardConfig.of(config.get("insight") or {}))
        # Of the last one, and of the last one that the guard had no doubts about.
        self.saved_step = self.good_step = 0
        self.rolled_back = False
        self.validation_events: list[Event] = []
        super().__init__(config)

    def _validate(self) -> dict[str, float]:
        # Here, because `fit` hands on the one before the first step to nobody.
        metrics = super()._validate()
        self.validation_events = self.guard.observe(self.global_steps, metrics)
        return metrics

    def _compute_metrics(self, batch: KVBatchMeta, metrics: dict, timing_raw: dict, global_steps: int, epoch: int):
        """verl's last word on a step: it has been trained, saved and validated by then."""
        super()._compute_metrics(batch, metrics, timing_raw, global_steps, epoch)
        if self.guard.config.guard == "off":
            return
        metrics |= format_errors(batch)
        events = self.guard.observe(global_steps, {k: v for k, v in metrics.items() if not k.startswith(VALIDATION)})
        events, self.validation_events = events + self.validation_events, []
        metrics["guard/events"] = len(events)
        if self.saved_step == global_steps and not (events or self.guard.doubts):
            self.good_step = global_steps
        if events:
            self._act(events)

    def _act(self, events: Sequence[Event]) -> None:
        action = self.guard.config.guard
        if action == "rollback" and (self.rolled_back or not self._folder(self.good_step).is_dir()):
            action = "stop"
        for event in events:
            logger.warning("GUARD (%s) %s", action, event.sentence)
        record = Path(self.config.trainer.default_local_dir) / EVENTS
        # Before the first checkpoint there is no such folder.
        record.parent.mkdir(parents=True, exist_ok=True)
        with record.open("a") as file:
            file.writelines(json.dumps({**asdict(event), "action": action}) + "\n" for event in events)
        if action == "stop":
            self._save_and_end()
        elif action == "rollback":
            self._roll_back()

    def _save_and_end(self) -> None:
        # `fit` goes on while global_steps <= total_training_steps, and saves whatever the guard doubts at the end.
        self.total_training_steps = self.global_steps
        if self.saved_step != self.global_steps:
            # As verl saves within a step: on a GPU vLLM must not hold the memory. With these hooks, as every trainer
            # has its own way to take it: one has accelerators to call back, another requests to end.
            self.on_step_begin()
            self.on_sample_end()
            self._save_checkpoint()
        # For whoever started it: this is no finished training.
        (Path(self.config.trainer.default_local_dir) / STOPPED).touch()

    def _roll_back(self) -> None:
        """Weights, optimizer and schedule of the last good checkpoint, with the teacher a copy of that student.

        The count of steps and the data go on, so that no number of the log is written twice. Only with a synchronous
        trainer: an asynchronous one has responses of the bad weights waiting.
        """
        folder = self._folder(self.good_step)
        logger.warning("GUARD goes back to %s, and on from there.", folder)
        with self.watch.over():
            self.checkpoint_manager.sleep_replicas()
        self.actor_rollout_wg.load_checkpoint(local_path=str(folder / "actor"), del_local_after_load=False)
        if self.use_critic:
            self.critic_wg.load_checkpoint(local_path=str(folder / "critic"), del_local_after_load=False)
        if is_sdpo(self.config):
            self.actor_rollout_wg.refresh_teacher()
        with self.watch.over():
            self.checkpoint_manager.update_weights(self.global_steps)
        self._read_state(folder)
        self.rolled_back = True
        # Whoever resumes before the next checkpoint must not begin with one that was saved in doubt.
        self.unnamed_step = None
        checkpoints.name_latest(folder.parent, self.good_step)

    def _save_checkpoint(self) -> None:
        is_last = self.global_steps >= self.total_training_steps
        if self.guard.config.guard == "rollback" and self.guard.doubts and not is_last:
            logger.warning("GUARD: step %d looks wrong and is not saved over a good one.", self.global_steps)
            return
        super()._save_checkpoint()
        self.saved_step = self.global_steps

    def _record(self, folder: Path) -> None:
        super()._record(folder)
        (folder / STATE).write_text(json.dumps(self.guard.state))

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        if not self.global_steps:
            return
        trainer = self.config.trainer
        is_path = trainer.resume_mode == "resume_path"
        self._read_state(Path(trainer.resume_from_path) if is_path else self._folder(self.global_steps))
        self.good_step = self.global_steps
        events = Path(trainer.default_local_dir) / EVENTS
        self.rolled_back = events.is_file() and any(
            json.loads(line)["action"] == "rollback" for line in events.read_text().splitlines()
        )

    def _read_state(self, checkpoint: Path) -> None:
        # Checkpoints of other trainers have none.
        if (checkpoint / STATE).is_file():
            self.guard = Guard.resumed(self.guard.config, json.loads((checkpoint / STATE).read_text()))

    def _folder(self, step: int) -> Path:
        return checkpoints.folder_of(Path(self.config.trainer.default_local_dir), step)
