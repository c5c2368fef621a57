"""Placement of a forward-only model's weights: kept on the accelerator, or offloaded to host memory.

verl offloads every forward-only model, and FSDP then copies its shards in for every micro-batch.
"""

import logging
import os
from collections.abc import Callable, Mapping

import torch
from transformers import PreTrainedModel

from verl.sdpo import on_cpu
from verl.sdpo.memory.estimate import place_teacher
from verl.sdpo.memory.model_size import measure
from verl.utils.device import get_device_id, get_device_name, get_torch_device
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

logger = logging.getLogger(__name__)
logger.setLevel(os.getenv("VERL_LOGGING_LEVEL", "INFO"))


class PlacedEngine(FSDPEngineWithLMHead):
    """verl's engine, with the choice to keep a forward-only model on the accelerator."""

    stays: Callable[[PreTrainedModel], bool] = staticmethod(lambda _module: on_cpu())
    """Decides, on every rank and before the model is sharded, whether it stays on the accelerator. Without one, FSDP's
    offload, which pins memory, does not work."""

    def _build_module(self):
        module = super()._build_module()
        self._is_offloaded = self.engine_config.forward_only and not self.stays(module)
        return module

    def _build_fsdp_module(self, module):
        forward_only = self.engine_config.forward_only
        # verl's method reads this flag to decide about offloading, and for nothing else.
        self.engine_config.forward_only = self._is_offloaded
        try:
            return super()._build_fsdp_module(module)
        finally:
            self.engine_config.forward_only = forward_only


def teacher_stays(actor_rollout_ref: Mapping, module: PreTrainedModel) -> bool:
    """Decide `PlacedEngine.stays` for the teacher's engine: the same on every rank, and as the doctor reports.

    Args:
        actor_rollout_ref: that part of the Hydra tree.
    """
    is_first = torch.distributed.get_rank() == 0
    if on_cpu():
        if is_first:
            logger.info("There is no accelerator: teacher_placement has no effect.")
        return True
    smallest = torch.tensor(get_torch_device().mem_get_info()[1], device=get_device_id())
    torch.distributed.all_reduce(smallest, op=torch.distributed.ReduceOp.MIN)
    trainer = {"device": get_device_name(), "nnodes": 1, "n_gpus_per_node": torch.distributed.get_world_size()}
    config = {"actor_rollout_ref": actor_rollout_ref, "trainer": trainer}
    place = place_teacher(config, measure(module), int(smallest))
    if place and is_first:
        logger.info("The teacher: %s.", place)
    return place is not None and place.on_gpu
