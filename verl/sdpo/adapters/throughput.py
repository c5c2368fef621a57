"""What verl reports of speed, with the teacher's share: its numbers know the student's rows alone."""

from typing import Any

import torch

from verl.sdpo.adapters.engine import SelfDistillationEngine
from verl.sdpo.adapters.mixin import Trainer
from verl.sdpo.teacher_rows import TEACHER_TOKENS
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


class ThroughputMixin(Trainer):
    """Over a trainer that makes teacher rows."""

    def _compute_metrics(self, batch, metrics: dict, timing_raw: dict, global_steps: int, epoch: int):
        super()._compute_metrics(batch, metrics, timing_raw, global_steps, epoch)
        # A step without an update, as test time's last one, has no teacher rows.
        if TEACHER_TOKENS in metrics:
            student = metrics["perf/total_num_tokens"]
            metrics["perf/total_num_tokens"] = student + metrics[TEACHER_TOKENS]
            metrics["perf/throughput"] *= metrics["perf/total_num_tokens"] / student
