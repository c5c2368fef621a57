"""End a run on request or after a time budget, with a checkpoint from which it can go on."""

import time
from pathlib import Path

from omegaconf import DictConfig
from transfer_queue import KVBatchMeta

from verl.sdpo.trainer.hooks import Extension, RunControl

# In the folder of a checkpoint: training time up to it, in seconds.
SECONDS = "train_seconds.txt"


class StopFile(Extension):
    """Ends the run after the present step once a file `stop` exists in `trainer.default_local_dir`.

    It is renamed to `stopped`, which tells whoever asked that this is not the training's own end. A request that comes
    with the last step is left alone.
    """

    def __init__(self, config: DictConfig):
        self.file = Path(config.trainer.default_local_dir) / "stop"

    def on_start(self, run: RunControl) -> None:
        self.run = run

    def should_stop(self) -> bool:
        if self.run.at_last_step or not self.file.exists():
            return False
        self.file.replace(self.file.with_name("stopped"))
        return True


class TimeBudget(Extension):
    """Ends the run once its steps have taken `trainer.max_train_hours`, and reports the time as `training/hours`.

    The time is that of the paper: `timing_s/step` without start-up, validation and saving, summed over all restarts.
    """

    def __init__(self, config: DictConfig):
        self.max_hours = config.trainer.get("max_train_hours")
        # Of all steps before the present one.
        self.seconds_before = 0.0
        # With the present step, as far as verl's `step`. The weight sync that follows counts with the next one.
        self.seconds = 0.0

    def _is_over(self, seconds: float) -> bool:
        return self.max_hours is not None and seconds >= 3600 * self.max_hours

    def on_load(self, step: int, folder: Path) -> None:
        # Checkpoints of other trainers have none.
        if (folder / SECONDS).is_file():
            self.seconds_before = float((folder / SECONDS).read_text())

    def on_start(self, run: RunControl) -> None:
        if self._is_over(self.seconds_before):
            run.end_after_this_step(save=False)

    def before_step(self) -> None:
        self._started = time.perf_counter()

    def should_stop(self) -> bool:
        self.seconds = self.seconds_before + time.perf_counter() - self._started
        return self._is_over(self.seconds)

    def on_save(self, step: int, folder: Path) -> None:
        (folder / SECONDS).write_text(f"{self.seconds:.1f}")

    def after_step(self, step: int, batch: KVBatchMeta, metrics: dict) -> None:
        metrics["training/hours"] = self.seconds / 3600
        self.seconds_before += metrics["timing_s/step"] - metrics.get("timing_s/save_checkpoint", 0.0)
