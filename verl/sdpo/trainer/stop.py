"""Ends of a training that verl does not know: when asked, after so many hours of its own steps, and by a fault."""

import concurrent.futures
import shutil
import time
from pathlib import Path

from omegaconf import DictConfig, open_dict
from ray.actor import ActorHandle

from verl.sdpo.config import VERLS_TRAINERS
from verl.sdpo.runs import checkpoints, identity
from verl.sdpo.trainer.mixin import Trainer
from verl.sdpo.trainer.supervision import Watch, supervise

# In the folder of a checkpoint: seconds of all steps up to it.
SECONDS = "train_seconds.txt"
# Between two looks at whether all responses have come; verl's 2 s are a tenth of a step of a small model.
POLL_SECONDS = 0.2


class StoppableMixin(Trainer):
    """Over a trainer of verl's, which then ends after the current step once `stop` exists in
    `trainer.default_local_dir`, or once its steps have taken `trainer.max_train_hours`.

    The checkpoint is verl's own, with the configuration and the time in it, and the next start resumes from it. When it
    is named and which older ones are deleted is decided here (`checkpoints.py`), not by verl. `stop` is renamed to
    `stopped`, so that whoever asked can tell this end from that of the training; a request that comes with the last
    step is left alone.

    The time is that of the paper: `timing_s/step`, without start-up, validation and saving, summed over all restarts.
    """

    def __init__(self, config: DictConfig):
        self.composed = identity.plain(config)
        self.train_seconds = self.seconds_so_far = 0.0
        # Of the last step. verl completes it after `step` has returned.
        self.last_timing: dict[str, float] = {}
        # Of the checkpoint that is saved, but not yet named.
        self.unnamed_step: int | None = None
        self.kept_checkpoints = config.trainer.max_actor_ckpt_to_keep
        # verl compares the mode with "sync" literally (trainer_base.py: replay buffer, gen_batch_size, checkpoints) and
        # finds a trainer's own keys under it.
        with open_dict(config):
            config.trainer.v1.trainer_mode = VERLS_TRAINERS[config.trainer.v1.trainer_mode]
            # verl deletes nothing.
            config.trainer.max_actor_ckpt_to_keep = config.trainer.max_critic_ckpt_to_keep = None
        self.watch = Watch(self._actors)
        super().__init__(config)

    def _build_replay_buffer(self):
        buffer = super()._build_replay_buffer()
        buffer.poll_interval = POLL_SECONDS
        supervise(buffer, self.watch)
        return buffer

    def _actors(self) -> dict[str, ActorHandle]:
        """All that a response passes through, and the workers that train on it."""
        # verl makes the agent loops after the first hand-over of weights.
        loops = getattr(self, "agent_loop_manager", None)
        replicas = [replica for manager in self._rollout_server_managers() for replica in manager.get_replicas()]
        groups = {
            "agent loop worker": loops.agent_loop_workers if loops else [],
            "reward worker": self.reward_loop_manager.reward_loop_workers,
            "rollout server": [server for replica in replicas for server in replica.servers],
            "training worker": self.actor_rollout_wg.workers,
        }
        return {f"{name} {number}": actor for name, actors in groups.items() for number, actor in enumerate(actors)}

    def on_init_end(self) -> None:
        with self.watch.over():
            super().on_init_end()

    # verl waits for servers, to sleep or to take weights, in all of these.
    def on_validate_begin(self) -> None:
        with self.watch.over():
            super().on_validate_begin()

    def on_sample_end(self) -> None:
        with self.watch.over():
            super().on_sample_end()

    def on_step_end(self) -> None:
        with self.watch.over():
            super().on_step_end()

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
        folder = checkpoints.folder_of(Path(self.config.trainer.default_local_dir), self.global_steps)
        # Then verl leaves the naming to others. Set here, when the workers have been made, which save at once.
        self.config.actor_rollout_ref.actor.checkpoint.async_save = True
        try:
            # Of an earlier attempt at this step.
            (folder / checkpoints.SEAL).unlink(missing_ok=True)
            self._record(folder)
            super()._save_checkpoint()
            checkpoints.seal(folder)
        except Exception as error:
            # Which may not have come to be.
            disk = next(path for path in folder.parents if path.exists())
            raise RuntimeError(
                f"The checkpoint of step {self.global_steps} could not be saved in {folder.parent}, where "
                f"{shutil.disk_usage(disk).free / 2**20:.0f} MiB are free. If that is too little, make "
                "room; then start the run again: it goes on from the checkpoint before."
            ) from error
        self.unnamed_step = self.global_steps

    def _record(self, folder: Path) -> None:
        """Write into the folder of a checkpoint what the next start reads of this one."""
        identity.record(self.composed, folder)
        (folder / SECONDS).write_text(f"{self.seconds_so_far:.1f}")

    def on_step_begin(self) -> None:
        with self.watch.over():
            super().on_step_begin()
        # verl writes the responses of a step in the background.
        concurrent.futures.wait(self._dump_futures)
        self._name_checkpoint()

    def _shutdown_dump_executor(self) -> None:
        # The last that `fit` does, after the last step is logged.
        super()._shutdown_dump_executor()
        self._name_checkpoint()

    def _name_checkpoint(self) -> None:
        """Of a step that has been logged: now a start may go on from it."""
        if self.unnamed_step is not None:
            folder = Path(self.config.trainer.default_local_dir)
            checkpoints.name_latest(folder, self.unnamed_step)
            checkpoints.delete_old(folder, self.unnamed_step, self.kept_checkpoints)
            self.unnamed_step = None

    def _load_checkpoint(self) -> None:
        trainer = self.config.trainer
        checkpoints.choose_whole(trainer)
        super()._load_checkpoint()
        folder = checkpoints.folder_of(Path(trainer.default_local_dir), self.global_steps)
        if trainer.resume_mode == "resume_path":
            folder = Path(trainer.resume_from_path)
        if self.global_steps and (folder / SECONDS).is_file():
            self.train_seconds = float((folder / SECONDS).read_text())
        if self._time_is_over(self.train_seconds):
            self.total_training_steps = self.global_steps
