"""What verl reports of speed, with the teacher's share: its numbers know the student's rows alone."""

from verl.sdpo.teacher_rows import TEACHER_TOKENS
from verl.sdpo.trainer.mixin import Trainer


class ThroughputMixin(Trainer):
    """Over a trainer that makes teacher rows."""

    def _compute_metrics(self, batch, metrics: dict, timing_raw: dict, global_steps: int, epoch: int):
        super()._compute_metrics(batch, metrics, timing_raw, global_steps, epoch)
        # A step without an update, as test time's last one, has no teacher rows.
        if TEACHER_TOKENS in metrics:
            student = metrics["perf/total_num_tokens"]
            metrics["perf/total_num_tokens"] = student + metrics[TEACHER_TOKENS]
            metrics["perf/throughput"] *= metrics["perf/total_num_tokens"] / student
