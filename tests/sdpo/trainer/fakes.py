"""Fakes for the trainer's tests: TransferQueue, a tokenizer, and verl's trainers without anything that trains."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch
from omegaconf import DictConfig, OmegaConf
from transfer_queue import KVBatchMeta

from tests.sdpo.test_teacher_rows import decode, encode
from verl.sdpo.config import STOPPABLE_MODE
from verl.sdpo.teacher_rows import TeacherRowBuilder
from verl.sdpo.trainer.hooks import Update
from verl.sdpo.trainer.mixin import ExtendedTrainer
from verl.sdpo.trainer.samples import read_samples
from verl.trainer.ppo.v1 import get_trainer_cls, trainer_base
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.utils.tensordict_utils import get_tensordict

JAGGED = {"input_ids": torch.int64, "responses": torch.int64, "rm_scores": torch.float32}


def jagged(rows, dtype=torch.float32):
    return torch.nested.as_nested_tensor([torch.tensor(row, dtype=dtype) for row in rows], layout=torch.jagged)


class Characters:
    """A tokenizer with one token per character."""

    added_tokens_decoder: dict = {}  # noqa: RUF012
    all_special_tokens: Sequence[str] = ()

    def batch_decode(self, rows, skip_special_tokens=False):
        return [decode([*map(int, row)]) for row in rows]


def entry(question, response, score=0.0, extra_info=None, **reward):
    """What the agent loop leaves of one attempt. The student reads <question>."""
    return {
        "uid": question,
        "raw_prompt": [{"role": "user", "content": question}],
        "input_ids": encode(f"<{question}>{response}"),
        "responses": encode(response),
        "rm_scores": [0.0] * (len(response) - 1) + [score],
        "extra_fields": {"reward_extra_info": reward} if reward else {},
        "extra_info": extra_info or {},
        "multi_modal_inputs": {},
    }


def batch_of(entries, names):
    """Fields of some entries, as TransferQueue returns them."""
    columns = {name: [entry[name] for entry in entries] for name in names}
    for name in JAGGED.keys() & columns.keys():
        columns[name] = jagged(columns[name], JAGGED[name])
    return get_tensordict(columns)


class Queue:
    """TransferQueue as the trainer uses it, holding the samples of one step; keys of padding start with "pad"."""

    def __init__(self, samples=()):
        self.samples, self.written, self.meta = dict(samples), None, None

    def batch(self):
        tags = [{"is_padding": key.startswith("pad")} for key in self.samples]
        return KVBatchMeta(list(self.samples), tags, "train", extra_info={"temperature": 0.6})

    def update(self, step: int = 3) -> Update:
        return Update(step, self.batch(), {}, {}, lambda batch: read_samples(batch, Characters()))

    def kv_batch_get(self, keys, partition_id, select_fields):
        assert partition_id == "train"
        return batch_of([self.samples[key] for key in keys], select_fields)

    def kv_batch_put(self, keys, partition_id, fields):
        assert (keys, partition_id) == (list(self.samples), "train")
        self.written = fields
        self.meta = KVBatchMeta(keys, [{} for _ in keys], partition_id, extra_info={"of": "the write"})
        return self.meta


def trainer_config(folder: Path, mode: str = STOPPABLE_MODE, loss_mode: str = "vanilla", **trainer) -> DictConfig:
    insight = {name: trainer.pop(name) for name in [*trainer] if name.startswith("guard")}
    return OmegaConf.create(
        {
            "trainer": {
                "default_local_dir": str(folder),
                "project_name": "project",
                "experiment_name": "experiment",
                "logger": [],
                "val_before_train": False,
                "total_epochs": 1,
                "save_freq": 25,
                "test_freq": -1,
                "resume_mode": "auto",
                "max_actor_ckpt_to_keep": 2,
                "max_critic_ckpt_to_keep": 2,
                "v1": {"trainer_mode": mode},
                **trainer,
            },
            "insight": insight,
            "global_profiler": {"steps": None, "profile_continuous_steps": False},
            "actor_rollout_ref": {
                "actor": {"policy_loss": {"loss_mode": loss_mode}, "checkpoint": {"async_save": False}}
            },
        }
    )


def make_trainer(config: DictConfig, steps: int, kind: type[ExtendedTrainer] | None = None) -> ExtendedTrainer:
    """Make a trainer of ours whose workers only record what they are asked for, in `done`."""
    kind = kind or get_trainer_cls(config.trainer.v1.trainer_mode)

    def verl_init(self, config):
        self.config, self.trainer_mode = config, config.trainer.v1.trainer_mode
        self.total_training_steps = self.steps_per_epoch = steps
        self.global_steps, self.use_critic = 0, False
        self.done, self.taken, self.logged = [], [], []
        self.actor_rollout_wg = SimpleNamespace(
            load_checkpoint=lambda local_path, del_local_after_load: self.done.append(f"load {local_path}"),
            refresh_teacher=lambda: self.done.append("refresh teacher"),
        )
        self.checkpoint_manager = SimpleNamespace(
            abort_replicas=lambda: self.done.append("abort"),
            sleep_replicas=lambda: self.done.append("sleep"),
            update_weights=lambda step: self.done.append("wake"),
        )
        self._init_dump_executor()

    (verls,) = (base for base in kind.__mro__ if base.__name__.startswith("PPOTrainer") and base is not PPOTrainer)
    with mock.patch.object(verls, "__init__", verl_init):
        trainer = kind(config)
    trainer._actors = dict
    for extension in trainer.extensions:
        extension.on_start(trainer)
    # These would train, or start it.
    trainer.on_train_begin = trainer.on_step_end = lambda: None
    return trainer


def verl_save(self):
    """Saves as verl does, which names the checkpoint unless told that others do (trainer_base.py:_save_checkpoint)."""
    assert self.config.actor_rollout_ref.actor.checkpoint.async_save
    folder = self.checkpoints.folder(self.global_steps)
    assert (folder / "guard.json").is_file() and (folder / "train_seconds.txt").is_file()
    (folder / "actor").mkdir()
    self.done.append(f"save {self.global_steps}")


def fit(trainer: ExtendedTrainer, step=None, **metrics: Sequence[float]) -> ExtendedTrainer:
    """Run stock verl's `fit`.

    Args:
        step: called with the number of each step.
        metrics: values of verl's metrics, one per step.
    """

    def verl_step(self, metrics, timing_raw):
        self.taken.append(self.global_steps)
        if step:
            step(self.global_steps)
        return mock.Mock()

    def verl_metrics(self, batch, step_metrics, timing_raw, global_steps, epoch):
        step_metrics |= {f"timing_s/{name}": seconds for name, seconds in timing_raw.items()}
        step_metrics |= {name: values[global_steps - 1] for name, values in metrics.items()}
        self.logged.append(step_metrics)

    verls = {"step": verl_step, "_save_checkpoint": verl_save, "_compute_metrics": verl_metrics}
    with (
        mock.patch.multiple(PPOTrainer, **verls),
        mock.patch.multiple(trainer_base, tq=mock.DEFAULT, SkipManager=mock.DEFAULT),
        mock.patch("verl.sdpo.trainer.guard.format_errors", lambda batch: {}),
    ):
        trainer.fit(agent_loop_manager=None)
    return trainer


def row_builder(settings) -> TeacherRowBuilder:
    return TeacherRowBuilder(
        settings,
        tokenize_chat=lambda messages, tools: encode(f"<{messages[-1]['content']}>"),
        encode=encode,
        decode=decode,
    )
