"""Guard of a training: follows every step's metrics, and does what `insight.guard` says when they go wrong."""

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from omegaconf import DictConfig
from transfer_queue import KVBatchMeta

from verl.sdpo.runs import checkpoints
from verl.sdpo.runs.guard_rules import VALIDATION, Event, Guard, GuardConfig
from verl.sdpo.trainer.hooks import Extension, RunControl
from verl.sdpo.trainer.samples import read_rewards

logger = logging.getLogger(__name__)
logger.setLevel(os.getenv("VERL_LOGGING_LEVEL", "INFO"))

# In `trainer.default_local_dir`: one event per line, with the action taken.
EVENTS = "guard.jsonl"
# In the folder of a checkpoint: the state of the guard.
STATE = "guard.json"
# In `trainer.default_local_dir`: the guard ended the training.
STOPPED = "stopped_by_guard"
FORMAT = "incorrect_format"


def format_errors(batch: KVBatchMeta) -> dict[str, float]:
    """Return the share of a batch's answers in a wrong format; empty if the reward function does not report it."""
    flags = [float(reward[FORMAT]) for reward in read_rewards(batch) if reward.get(FORMAT) is not None]
    return {f"training/{FORMAT}": sum(flags) / len(flags)} if flags else {}


class MetricsGuard(Extension):
    """Acts on the events of `runs/guard_rules.py`: warns, ends the run, or takes it back to a good checkpoint once."""

    def __init__(self, config: DictConfig):
        self.guard = Guard(GuardConfig.of(config.get("insight") or {}))
        self.folder = Path(config.trainer.default_local_dir)
        # Of the last checkpoint, and of the last one that nothing spoke against.
        self.saved_step = self.good_step = 0
        self.rolled_back = False
        self.validation_events: list[Event] = []

    def on_start(self, run: RunControl) -> None:
        self.run = run

    def after_validation(self, step: int, metrics: dict) -> None:
        self.validation_events = self.guard.observe(step, metrics)

    def after_step(self, step: int, batch: KVBatchMeta, metrics: dict) -> None:
        if self.guard.config.guard == "off":
            return
        metrics |= format_errors(batch)
        events = self.guard.observe(step, {k: v for k, v in metrics.items() if not k.startswith(VALIDATION)})
        events, self.validation_events = events + self.validation_events, []
        metrics["guard/events"] = len(events)
        if self.saved_step == step and not (events or self.guard.doubts):
            self.good_step = step
        if events:
            self._act(step, events)

    def _act(self, step: int, events: Sequence[Event]) -> None:
        action = self.guard.config.guard
        if action == "rollback" and (self.rolled_back or not self._checkpoint(self.good_step).is_dir()):
            action = "stop"
        for event in events:
            logger.warning("GUARD (%s) %s", action, event.sentence)
        # Before the first checkpoint there is no such folder.
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / EVENTS).open("a") as file:
            file.writelines(json.dumps({**asdict(event), "action": action}) + "\n" for event in events)
        if action == "stop":
            self._save_and_end(step)
        elif action == "rollback":
            self._roll_back()

    def _save_and_end(self, step: int) -> None:
        self.run.end_after_this_step(save=False)
        if self.saved_step != step:
            self.run.save_now()
        # For the program that started the run: this training is not finished.
        (self.folder / STOPPED).touch()

    def _roll_back(self) -> None:
        folder = self._checkpoint(self.good_step)
        logger.warning("GUARD goes back to %s, and on from there.", folder)
        self.run.go_back_to(self.good_step)
        self._read_state(folder)
        self.rolled_back = True

    def may_save(self, step: int) -> bool:
        if self.guard.config.guard != "rollback" or not self.guard.doubts:
            return True
        logger.warning("GUARD: step %d looks wrong and is not saved over a good one.", step)
        return False

    def on_save(self, step: int, folder: Path) -> None:
        (folder / STATE).write_text(json.dumps(self.guard.state))
        self.saved_step = step

    def on_load(self, step: int, folder: Path) -> None:
        self._read_state(folder)
        self.good_step = step
        events = self.folder / EVENTS
        self.rolled_back = events.is_file() and any(
            json.loads(line)["action"] == "rollback" for line in events.read_text().splitlines()
        )

    def _read_state(self, checkpoint: Path) -> None:
        # Checkpoints of other trainers have none.
        if (checkpoint / STATE).is_file():
            self.guard = Guard.resumed(self.guard.config, json.loads((checkpoint / STATE).read_text()))

    def _checkpoint(self, step: int) -> Path:
        return checkpoints.folder_of(self.folder, step)
