"""verl's metrics of speed with the teacher's tokens in them: verl counts the student's rows alone."""

from transfer_queue import KVBatchMeta

from verl.sdpo.teacher_rows import TEACHER_TOKENS
from verl.sdpo.trainer.hooks import Extension


class Throughput(Extension):
    """Adds the teacher's tokens to `perf/total_num_tokens` and `perf/throughput`."""

    def after_step(self, step: int, batch: KVBatchMeta, metrics: dict) -> None:
        # A step without an update, such as the last one at test time, has no teacher rows.
        if TEACHER_TOKENS in metrics:
            student = metrics["perf/total_num_tokens"]
            metrics["perf/total_num_tokens"] = student + metrics[TEACHER_TOKENS]
            metrics["perf/throughput"] *= metrics["perf/total_num_tokens"] / student
