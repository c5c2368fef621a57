"""Ends of a training that verl does not know: when somebody asks, and after so many hours of its own steps."""

import time
from pathlib import Path

from omegaconf import DictConfig, open_dict

from verl.sdpo.adapters import identity
from verl.sdpo.adapters.mixin import Trainer
from verl.sdpo.config import STOPPABLE_MODES, TRAINER_MODES

# In the folder of a checkpoint: seconds of all steps up to it.
SECONDS = "train_seconds.txt"
# Between two looks at whether all responses have come; verl's 2 s are a tenth of a step of a small model.
POLL_SECONDS = 0.2


class StoppableMixin(Trainer):
    """Over a trainer of verl's, which then ends after the current step once `stop` exists in
    `trainer.default_local_dir`, or once its steps have taken `trainer.max_train_hours`.

    The checkpoint is verl's own, with the configuration and the time in it, and the next start resumes from it. `stop`
    is renamed to `stopped`, so that whoever asked can tell this end from that of the training; a request that comes
    with the last step is left alone.

    The time is that of the paper: `timing_s/step`, without start-up, validation and saving, summed over all restarts.
    """

    def __init__(self, config: DictConfig):
        self.composed = identity.plain(config)
        self.train_seconds = self.seconds_so_far = 0.0
        # Of the last step. verl completes it after `step` has returned.
        self.last_timing: dict[str, float] = {}
        # verl compares the mode with "sync" literally (trainer_base.py: replay buffer, gen_batch_size, checkpoints) and
        # finds a trainer's own keys under it.
        with open_dict(config):
            config.trainer.v1.trainer_mode = (STOPPABLE_MODES | TRAINER_MODES)[config.trainer.v1.trainer_mode]
        super().__init__(config)

    def _build_replay_buffer(self):
        buffer = super()._build_replay_buffer()
        buffer.poll_interval = POLL_SECONDS
        return buffer

    def step(self, metrics: dict, timing_raw: dict):
        self.train_seconds += self.last_timing.get("step", 0.0) - self.last_timing.get("save_checkpoint", 0.0)
        self.last_timing, started = timing_raw, time.perf_counter()
        batch = super().step(metrics, timing_raw)
        # What verl still does in this step, handing the weights to vLLM, is counted with the next one.
        self.seconds_so_far = self.train_seconds + time.perf_counter() - started
        metrics["training/hours"] = self.seconds_so_far / 3600
        stop = Path(self.config.trainer.default_local_dir) / "stop"
        if self.global_steps < self.total_training_steps:
            if stop.exists():
                stop.replace(stop.with_name("stopped"))
                self._end_here()
            elif self._time_is_over(self.seconds_so_far):
                self._end_here()
        return batch

    def _time_is_over(self, seconds: float) -> bool:
        hours = self.config.trainer.get("max_train_hours")
        return hours is not None and seconds >= 3600 * hours

    def _end_here(self) -> None:
        # `fit` reads both again after every step.
        self.config.trainer.save_freq = 1
        self.total_training_steps = self.global_steps

    def _save_checkpoint(self) -> None:
        folder = Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}"
        identity.record(self.composed, folder)
        (folder / SECONDS).write_text(f"{self.seconds_so_far:.1f}")
        super()._save_checkpoint()

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        trainer = self.config.trainer
        folder = Path(trainer.default_local_dir) / f"global_step_{self.global_steps}"
        if trainer.resume_mode == "resume_path":
            folder = Path(trainer.resume_from_path)
        if self.global_steps and (folder / SECONDS).is_file():
            self.train_seconds = float((folder / SECONDS).read_text())
        if self._time_is_over(self.train_seconds):
            self.total_training_steps = self.global_steps
