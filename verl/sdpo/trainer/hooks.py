"""Extensions of a training: plain objects with a few hooks, which `mixin.ExtendedTrainer` calls.

To add one, write a class here or in a module of its own, and put it into a list of `trainers.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from omegaconf import DictConfig
from transfer_queue import KVBatchMeta

from verl.sdpo.teacher_rows import Sample, TeacherRows


@dataclass
class Update:
    """One update of the actor that is about to be made. A step of an asynchronous trainer has several."""

    step: int
    batch: KVBatchMeta
    metrics: dict[str, Any]
    timing: dict[str, float]
    """Seconds by name; verl reports them as `timing_s/NAME`."""
    read_samples: Callable[[KVBatchMeta], list[Sample]]
    rows: TeacherRows | None = None
    """The teacher's rows, once `TeacherBatch` has built them."""
    columns: dict[str, torch.Tensor] = field(default_factory=dict)
    """Columns that go to the workers with the batch, in the order of the samples."""
    order: list[int] | None = None
    """The order in which the batch goes to the workers; None leaves verl's."""
    is_skipped: bool = False
    """Set to leave the update out: neither later extensions nor the workers see it."""

    @cached_property
    def samples(self) -> list[Sample]:
        """The samples of the batch, read from TransferQueue when an extension first asks for them."""
        return self.read_samples(self.batch)


class RunControl(Protocol):
    """The part of a trainer that extensions may use: state of verl's trainer, and requests to the mixin."""

    config: DictConfig
    tokenizer: Any
    global_steps: int
    val_dataset: Any
    agent_loop_manager: Any
    replay_buffer: Any

    @property
    def at_last_step(self) -> bool:
        """True if the training ends with the present step."""

    @property
    def num_ranks(self) -> int:
        """Number of data-parallel ranks among which an update is divided."""

    def read_samples(self, batch: KVBatchMeta) -> list[Sample]:
        """Return the samples of a batch."""

    def end_after_this_step(self, *, save: bool) -> None:
        """Make the present step the last one.

        Args:
            save: save a checkpoint at the end of the step; only with effect until verl's step has returned.
        """

    def save_now(self) -> None:
        """Save a checkpoint after a step, when the rollout engine may hold the memory."""

    def go_back_to(self, step: int) -> None:
        """Load weights, optimizer and schedule of a checkpoint, and make the teacher a copy of its student.

        The count of steps and the data go on, so that no number of the log is written twice. Only for a synchronous
        trainer: an asynchronous one has responses of the discarded weights waiting.
        """


class Extension:
    """Base class: each hook does nothing. Extensions are called in the order of their list.

    Args:
        config: the whole Hydra tree, as the user composed it.
    """

    def __init__(self, config: DictConfig):
        pass

    def on_load(self, step: int, folder: Path) -> None:
        """Read own state from the folder of the checkpoint from which the run resumes; called before `on_start`."""

    def on_start(self, run: RunControl) -> None:
        """Prepare, once models and tokenizer are there and a checkpoint is loaded. An extension may keep `run`."""

    def before_step(self) -> None:
        """React to the start of a step, before sampling."""

    def before_update(self, update: Update) -> None:
        """Look at the samples of an update, add columns to it, or skip it."""

    def should_stop(self) -> bool:
        """Return True to save and end the run with the present step; asked once a step, after its updates."""
        return False

    def may_save(self, step: int) -> bool:
        """Return False to leave out a checkpoint that is not the last."""
        return True

    def on_save(self, step: int, folder: Path) -> None:
        """Write own state into the folder of a checkpoint, which is incomplete as yet."""

    def after_validation(self, step: int, metrics: dict[str, Any]) -> None:
        """Look at validation metrics, also at those from before the first step."""

    def after_step(self, step: int, batch: KVBatchMeta, metrics: dict[str, Any]) -> None:
        """Look at the metrics of a step, or add to them, before they are logged.

        The step is trained, saved and validated, its batch still in TransferQueue, and the rollout engine awake with
        the new weights.
        """
