"""One mixin over verl's V1 trainers: calls extensions, and holds what must be a part of the trainer itself."""

import concurrent.futures
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from omegaconf import DictConfig, open_dict
from ray.actor import ActorHandle
from transfer_queue import KVBatchMeta

from verl.sdpo.config import VERLS_TRAINERS, is_sdpo
from verl.sdpo.runs import checkpoints
from verl.sdpo.teacher_rows import Sample
from verl.sdpo.trainer.hooks import Extension, Update
from verl.sdpo.trainer.roles import use_self_distillation_worker
from verl.sdpo.trainer.samples import read_samples, write_columns
from verl.sdpo.trainer.saving import CheckpointSaver
from verl.sdpo.trainer.supervision import Watchdog, supervise

if TYPE_CHECKING:
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer as Trainer
else:
    # At run time a mixin has no base, so that one class serves all of verl's trainers.
    Trainer = object

# Pause between two looks at whether all responses have come; verl's 2 s are a tenth of a step of a small model.
POLL_SECONDS = 0.2


class ExtendedTrainer(Trainer):
    """Mixin that calls the hooks of its extensions, saves crash-safe checkpoints and fails fast.

    All of verl's trainers train on whole groups: an asynchronous one, too, samples questions whose attempts are all
    finished, so that a sample's siblings are there when its teacher row is built.
    """

    extension_types: ClassVar[tuple[type[Extension], ...]] = ()

    def __init__(self, config: DictConfig):
        self.extensions = [kind(config) for kind in self.extension_types]
        self.checkpoints = CheckpointSaver(config)
        # verl compares the mode with "sync" literally (trainer_base.py: replay buffer, gen_batch_size, checkpoints) and
        # finds a trainer's own keys under it.
        with open_dict(config):
            config.trainer.v1.trainer_mode = VERLS_TRAINERS[config.trainer.v1.trainer_mode]
            # Older checkpoints are deleted by `CheckpointSaver`, not by verl.
            config.trainer.max_actor_ckpt_to_keep = config.trainer.max_critic_ckpt_to_keep = None
        self.watchdog = Watchdog(self._actors)
        super().__init__(config)

    # The requests of extensions (hooks.RunControl)

    @property
    def at_last_step(self) -> bool:
        return self.global_steps >= self.total_training_steps

    @property
    def num_ranks(self) -> int:
        return max(self.actor_rollout_wg._dispatch_info["actor"]) + 1

    def read_samples(self, batch: KVBatchMeta) -> list[Sample]:
        return read_samples(batch, self.tokenizer)

    def end_after_this_step(self, *, save: bool) -> None:
        # `fit` reads both after every step: it goes on while global_steps <= total_training_steps.
        self.total_training_steps = self.global_steps
        if save:
            self.config.trainer.save_freq = 1

    def save_now(self) -> None:
        # As verl saves within a step: on a GPU vLLM must not hold the memory. By these hooks, as every trainer has its
        # own way to take it: one has accelerators to call back, another requests to end.
        self.on_step_begin()
        self.on_sample_end()
        self._save_checkpoint()

    def go_back_to(self, step: int) -> None:
        folder = self.checkpoints.folder(step)
        self.watchdog.run(self.checkpoint_manager.sleep_replicas)
        self.actor_rollout_wg.load_checkpoint(local_path=str(folder / "actor"), del_local_after_load=False)
        if self.use_critic:
            self.critic_wg.load_checkpoint(local_path=str(folder / "critic"), del_local_after_load=False)
        if is_sdpo(self.config):
            self.actor_rollout_wg.refresh_teacher()
        self.watchdog.run(lambda: self.checkpoint_manager.update_weights(self.global_steps))
        self.checkpoints.go_back_to(step)

    # Where verl calls extensions

    def on_init_end(self) -> None:
        for extension in self.extensions:
            extension.on_start(self)
        self.watchdog.run(super().on_init_end)

    def step(self, metrics: dict, timing_raw: dict):
        for extension in self.extensions:
            extension.before_step()
        batch = super().step(metrics, timing_raw)
        # Each of them is asked: one may keep the time.
        asks_to_stop = [extension.should_stop() for extension in self.extensions]
        if any(asks_to_stop) and not self.at_last_step:
            self.end_after_this_step(save=True)
        return batch

    def _update_actor(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        update = Update(self.global_steps, batch, metrics, self.timing_raw, self.read_samples)
        for extension in self.extensions:
            extension.before_update(update)
            if update.is_skipped:
                return batch
        batch = super()._update_actor(write_columns(update), metrics)
        # verl prefixes all that its worker reports.
        metrics |= {k.removeprefix("actor/"): metrics.pop(k) for k in [*metrics] if k.startswith("actor/self_dist")}
        return batch

    def _validate(self) -> dict[str, float]:
        # Here, because `fit` passes the metrics from before the first step to no other method.
        metrics = super()._validate()
        for extension in self.extensions:
            extension.after_validation(self.global_steps, metrics)
        return metrics

    def _compute_metrics(self, batch: KVBatchMeta, metrics: dict, timing_raw: dict, global_steps: int, epoch: int):
        super()._compute_metrics(batch, metrics, timing_raw, global_steps, epoch)
        for extension in self.extensions:
            extension.after_step(global_steps, batch, metrics)

    def _save_checkpoint(self) -> None:
        step = self.global_steps
        if not (self.at_last_step or all(extension.may_save(step) for extension in self.extensions)):
            return
        with self.checkpoints.saving(step) as folder:
            # Then verl does not name it. Set here, when the workers have been made, which save synchronously.
            self.config.actor_rollout_ref.actor.checkpoint.async_save = True
            for extension in self.extensions:
                extension.on_save(step, folder)
            super()._save_checkpoint()

    def _load_checkpoint(self) -> None:
        trainer = self.config.trainer
        checkpoints.choose_complete(trainer)
        super()._load_checkpoint()
        if not self.global_steps:
            return
        is_path = trainer.resume_mode == "resume_path"
        folder = Path(trainer.resume_from_path) if is_path else self.checkpoints.folder(self.global_steps)
        for extension in self.extensions:
            extension.on_load(self.global_steps, folder)

    # Naming of checkpoints: once the step is logged, a run may resume from it

    def on_step_begin(self) -> None:
        self.watchdog.run(super().on_step_begin)
        # verl writes the responses of a step in the background.
        concurrent.futures.wait(self._dump_futures)
        self.checkpoints.name_saved()

    def _shutdown_dump_executor(self) -> None:
        # The last call of `fit`, after the last step is logged.
        super()._shutdown_dump_executor()
        self.checkpoints.name_saved()

    # Workers

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        if is_sdpo(self.config):
            # The resource pool manager holds a reference to `self.mapping`.
            use_self_distillation_worker(self.config, self.role_worker_mapping, self.mapping)

    # Fail fast: in these hooks verl waits for servers, to sleep or to take weights

    def on_validate_begin(self) -> None:
        self.watchdog.run(super().on_validate_begin)

    def on_sample_end(self) -> None:
        self.watchdog.run(super().on_sample_end)

    def on_step_end(self) -> None:
        self.watchdog.run(super().on_step_end)

    def _build_replay_buffer(self):
        buffer = super()._build_replay_buffer()
        buffer.poll_interval = POLL_SECONDS
        supervise(buffer, self.watchdog)
        return buffer

    def _actors(self) -> dict[str, ActorHandle]:
        """Return the actors that a response passes through, and the workers that train on it."""
        # verl makes the agent loops after the first weight sync.
        loops = getattr(self, "agent_loop_manager", None)
        replicas = [replica for manager in self._rollout_server_managers() for replica in manager.get_replicas()]
        groups = {
            "agent loop worker": loops.agent_loop_workers if loops else [],
            "reward worker": self.reward_loop_manager.reward_loop_workers,
            "rollout server": [server for replica in replicas for server in replica.servers],
            "training worker": self.actor_rollout_wg.workers,
        }
        return {f"{name} {number}": actor for name, actors in groups.items() for number, actor in enumerate(actors)}
