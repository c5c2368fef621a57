"""The teacher's models and weights in verl's FSDP engines.

`reference` is the engine of verl's colocated ref model, `student` that of the actor. Both are wrapped alike, so their
parameters pair up shard by shard. With LoRA the initial model is the student without its adapter, and a reference that
moves holds merged weights where the student holds base weights.
"""

import json
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from omegaconf import OmegaConf
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP

from verl.sdpo.checks import BLOCK
from verl.sdpo.config import SelfDistillationConfig
from verl.sdpo.engine.distillation_engine import SelfDistillationEngine
from verl.sdpo.engine.lora import base_shards, merged_shards
from verl.sdpo.model import Result, Rows
from verl.sdpo.teacher import Teacher
from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager
from verl.utils.device import get_device_id

CHECKPOINT_FOLDER = "teacher"
STATE_FILE = "state_rank_{rank}.json"


def reshard(module: torch.nn.Module) -> None:
    """Free the gathered parameters of every FSDP unit, so that its next forward pass reads the shards.

    After a forward pass without gradient the root unit (embeddings, final norm, lm_head) of FSDP1 stays gathered, and
    would go on serving the old weights after its shard has been changed in place.
    """
    for unit in FSDP.fsdp_modules(module):
        # Before its first forward pass FSDP1 has gathered nothing, and lacks the attributes that `reshard` reads.
        if unit._handle is not None and hasattr(unit._handle.flat_param, "_local_shard"):
            # A single rank has nothing gathered to free, and FSDP1 refuses to.
            unit._handle.reshard(free_unsharded_flat_param=unit._handle.uses_sharded_strategy)
    for unit in module.modules():
        if isinstance(unit, FSDPModule):
            unit.reshard()


def _shards(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    """Iterate over this rank's shards of all parameters, sharing their storage."""
    for parameter in module.parameters():
        yield parameter.to_local() if hasattr(parameter, "to_local") else parameter.data


class ReferenceModel:
    """`Model` of the reference."""

    def __init__(self, engine: SelfDistillationEngine):
        self.engine = engine

    def run(self, rows: Rows, mask_BT: torch.Tensor, head: Callable[..., Result]) -> Result:
        with self.engine.eval_mode(disable_auto_offload=True):
            return self.engine.run(rows, mask_BT, head)


class StudentAsTeacher:
    """`Model` of the student that scores: without dropout, and hidden from verl's hooks on a training forward pass.

    Activation offload counts the layers of a forward pass, and would take this one for a part of the student's own.
    """

    def __init__(self, engine: SelfDistillationEngine):
        self.engine = engine

    def run(self, rows: Rows, mask_BT: torch.Tensor, head: Callable[..., Result]) -> Result:
        self.engine.module.eval()
        try:
            return self.engine.run(rows, mask_BT, head)
        finally:
            self.engine.module.train()


class AdapterOffModel(StudentAsTeacher):
    """`Model` of the initial weights with LoRA: the student with its adapter switched off."""

    def run(self, rows: Rows, mask_BT: torch.Tensor, head: Callable[..., Result]) -> Result:
        with self.engine.disable_adapter():
            return super().run(rows, mask_BT, head)


class ReferenceWeights:
    """`Weights` of a reference that is wrapped as the student is."""

    def __init__(self, reference: SelfDistillationEngine, student: SelfDistillationEngine):
        self.reference = reference
        self.student = student

    def follow(self, rate: float) -> float:
        return self._pass(rate)

    def distance(self) -> float:
        return self._pass(0.0)

    def _pairs(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Iterate over pairs of a shard of the reference, sharing its storage, and the student's."""
        return zip(_shards(self.reference.module), _shards(self.student.module), strict=True)

    @torch.no_grad()
    def _pass(self, rate: float) -> float:
        """Move all shards, which may be offloaded to host memory, and return the distance after the move."""
        reshard(self.reference.module)
        device = get_device_id()
        squares = torch.zeros(2, dtype=torch.float64, device=device)
        for shard, student_shard in self._pairs():
            assert shard.shape == student_shard.shape, (shard.shape, student_shard.shape)
            # On the accelerator: both may be offloaded to host memory, where Ray leaves few threads to a worker.
            reference, student = shard.to(device), student_shard.to(device)
            if rate:
                reference = torch.lerp(reference, student.to(reference.dtype), rate)
                shard.copy_(reference)
            # Norms in float32: in float64 they take a CPU two hundred times as long.
            norms = [torch.linalg.vector_norm(each, dtype=torch.float32) for each in (reference - student, student)]
            squares += torch.stack(norms).double().square()
        torch.distributed.all_reduce(squares, group=self.student.get_data_parallel_group())
        difference, norm = squares.sqrt().tolist()
        return difference / norm if norm else math.nan

    def save(self, folder: str, global_step: int, state: dict[str, Any]) -> None:
        reshard(self.reference.module)
        path = os.path.join(folder, CHECKPOINT_FOLDER)
        self._checkpoint_manager().save_checkpoint(path, global_step=global_step)
        # Beside this rank's weights: nodes need not share a disk.
        with open(os.path.join(path, STATE_FILE.format(rank=torch.distributed.get_rank())), "w") as file:
            json.dump(state, file)

    def load(self, folder: str) -> dict[str, Any]:
        path = os.path.join(folder, CHECKPOINT_FOLDER)
        if not os.path.isdir(path):
            raise FileNotFoundError(
                f"{path}: the checkpoint holds no teacher, but {BLOCK}.teacher_regularization names one that is not "
                "the initial model any more. Resume from a checkpoint of such a run, or start anew with "
                "trainer.resume_mode=disable."
            )
        reshard(self.reference.module)
        self._checkpoint_manager().load_checkpoint(path)
        state_file = os.path.join(path, STATE_FILE.format(rank=torch.distributed.get_rank()))
        # Version 0.1.0 wrote none; its moving average has no state.
        if not os.path.exists(state_file):
            return {}
        with open(state_file) as file:
            return json.load(file)

    def _checkpoint_manager(self) -> FSDPCheckpointManager:
        contents = OmegaConf.create({"save_contents": ["model"], "load_contents": ["model"]})
        return FSDPCheckpointManager(
            model=self.reference.module,
            processing_class=self.reference.model_config.get_processor(),
            checkpoint_config=contents,
        )


class MergedWeights(ReferenceWeights):
    """`Weights` with LoRA: pairs the reference's base weights with the student's merged ones.

    The reference's own adapter stays zero, because an average of A and of B is not the average of the weights: B @ A is
    not linear in the two. Without a reference model the student stands for it, whose base weights never change.
    """

    def _pairs(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        reshard(self.student.module)
        student = merged_shards(self.student.module, get_device_id())
        return zip(base_shards(self.reference.module), student, strict=True)


def make_teacher(
    config: SelfDistillationConfig, reference: SelfDistillationEngine | None, student: SelfDistillationEngine
) -> Teacher:
    """Build the teacher that the configuration names; `reference` is None if verl built no ref model."""
    model: ReferenceModel | AdapterOffModel | None = None
    weights: ReferenceWeights | None = None
    is_lora = student.model_config.lora_rank > 0
    if reference is not None:
        model = ReferenceModel(reference)
        weights = MergedWeights(reference, student) if is_lora else ReferenceWeights(reference, student)
    elif is_lora:
        model, weights = AdapterOffModel(student), MergedWeights(student, student)
    return config.teacher_class(
        config.teacher_config, student=StudentAsTeacher(student), reference=model, weights=weights
    )
