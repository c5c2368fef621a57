"""Floating-point operations of an update, with those of the teacher."""

from typing import Any

import torch

from verl.sdpo.engine.distillation_engine import SelfDistillationEngine
from verl.utils.device import get_device_id
from verl.utils.flops_counter import FlopsCounter

# verl's estimate is of a forward and a backward pass, which takes twice as long.
FORWARD = 1 / 3


class ComputedFlops(FlopsCounter):
    """For `mfu`, in the place of the counter of verl's worker (verl/workers/engine_workers.py:229): what the engine has
    computed, with the teacher's forward passes, without rows that were left out, and a shared prompt once.
    """

    def __init__(self, engine: SelfDistillationEngine):
        super().__init__(engine.model_config.hf_config)
        self.engine = engine

    def estimate_flops(self, batch_seqlens: list[int], delta_time: float, **kargs: Any) -> tuple[float, float]:
        """TFLOP/s of all ranks in the engine's last batch, and those that one device could reach; collective.

        Args:
            batch_seqlens: verl's, of the student's rows, computed or not: not read.
            delta_time: seconds.
        """
        estimate, engine = super().estimate_flops, self.engine

        def of(lengths: tuple[list[int], list[int]]) -> float:
            # Estimates add up over rows, so that what a prompt would take once more can be taken off.
            whole, again = (estimate(each, delta_time, **kargs)[0] for each in lengths)
            return whole - again

        student, *teacher = engine.computed
        achieved = of(student) + FORWARD * engine.teacher.num_forwards * sum(map(of, teacher))
        total = torch.tensor(achieved, dtype=torch.float64, device=get_device_id())
        torch.distributed.all_reduce(total, group=engine.get_data_parallel_group())
        return total.item(), estimate([], delta_time, **kargs)[1]
