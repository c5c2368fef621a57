"""Floating-point operations of an update, the teacher's included."""

from typing import Any

import torch

from verl.sdpo.engine.distillation_engine import SelfDistillationEngine
from verl.sdpo.teacher import UPDATE_PASSES
from verl.utils.device import get_device_id
from verl.utils.flops_counter import FlopsCounter


class ComputedFlops(FlopsCounter):
    """Counter of the operations that the engine really computed, for `mfu`.

    It replaces the counter of verl's worker (verl/workers/engine_workers.py:229): the teacher's forward passes count,
    rows that were left out do not, and a shared prompt counts once.
    """

    def __init__(self, engine: SelfDistillationEngine):
        super().__init__(engine.model_config.hf_config)
        self.engine = engine

    def estimate_flops(self, batch_seqlens: list[int], delta_time: float, **kargs: Any) -> tuple[float, float]:
        """Return the TFLOP/s of all ranks in the engine's last batch, and the most of one device; collective.

        Args:
            batch_seqlens: verl's lengths of the student's rows, computed or not; not read.
            delta_time: seconds.
        """
        estimate, engine = super().estimate_flops, self.engine

        def update_flops(lengths: tuple[list[int], list[int]]) -> float:
            # verl estimates a forward and a backward pass. Estimates add up over rows, so that the repeats of a shared
            # prompt can be subtracted.
            whole, again = (estimate(each, delta_time, **kargs)[0] for each in lengths)
            return whole - again

        student, *teacher = engine.computed
        achieved = update_flops(student)
        achieved += engine.teacher.passes / UPDATE_PASSES * sum(map(update_flops, teacher))
        total = torch.tensor(achieved, dtype=torch.float64, device=get_device_id())
        torch.distributed.all_reduce(total, group=engine.get_data_parallel_group())
        return total.item(), estimate([], delta_time, **kargs)[1]
