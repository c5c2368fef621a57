"""Asking a training to save a checkpoint and end, which a Slurm job does shortly before its time limit."""

from pathlib import Path

from omegaconf import DictConfig, open_dict

from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

STOPPABLE_MODE = "sync_stoppable"


@register_trainer(STOPPABLE_MODE)
class StoppableTrainer(PPOTrainerSync):
    """verl's synchronous trainer, which ends after the current step once `stop` exists in `trainer.default_local_dir`.

    The checkpoint is verl's own, and the next start resumes from it. `stop` is renamed to `stopped`, so that whoever
    asked can tell this end from that of the training; a request that comes with the last step is left alone.
    """

    def __init__(self, config: DictConfig):
        # The base class compares the mode with "sync" literally (trainer_base.py: replay buffer, gen_batch_size,
        # checkpoints); under any other name it would treat this synchronous trainer as an asynchronous one.
        with open_dict(config):
            config.trainer.v1.trainer_mode = "sync"
        super().__init__(config)

    def step(self, metrics: dict, timing_raw: dict):
        batch = super().step(metrics, timing_raw)
        stop = Path(self.config.trainer.default_local_dir) / "stop"
        if stop.exists() and self.global_steps < self.total_training_steps:
            stop.replace(stop.with_name("stopped"))
            # `fit` reads both again after every step.
            self.config.trainer.save_freq = 1
            self.total_training_steps = self.global_steps
        return batch
