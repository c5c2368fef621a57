"""Recorder of per-token statistics on a worker, for a few chosen rows of a training step.

The trainer chooses the rows and reads the file (trainer/dump.py); both see the same file system.
"""

import logging
from functools import partial
from pathlib import Path

import torch
from tensordict import TensorDict

from verl.sdpo.head import TokenStatistics
from verl.sdpo.micro_step import Observer
from verl.utils import tensordict_utils as tu

logger = logging.getLogger(__name__)

# Sample field: its number in the dump, -1 for samples that are not dumped.
ROW = "dump_row"
# Batch field: the folder for the workers' files.
FOLDER = "dump_folder"


class TokenRecorder:
    """Records of one rank and one training step."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, torch.Tensor]] = {}

    def observer(self, batch: TensorDict) -> Observer | None:
        """Return the callback for a micro-batch, None if it has no chosen row."""
        if ROW not in batch or not (batch[ROW] >= 0).any():
            return None
        return partial(self._keep, batch[ROW])

    def _keep(
        self,
        rows_B: torch.Tensor,
        distill_mask_BT: torch.Tensor,
        student: TokenStatistics,
        teacher: TokenStatistics,
        kl_N: torch.Tensor,
    ) -> None:
        values = {
            "position": distill_mask_BT.nonzero()[:, 1],
            "log_ratio": teacher.log_probs - student.log_probs,
            "kl": kl_N,
        }
        for name, statistics in (("student", student), ("teacher", teacher)):
            values |= {
                f"{name}_entropy": statistics.entropy,
                f"{name}_best": statistics.top_indices,
                f"{name}_best_log_probs": statistics.top_log_probs,
            }
        lengths = distill_mask_BT.sum(-1).tolist()
        split = {name: value.detach().cpu().split(lengths) for name, value in values.items()}
        for i, row in enumerate(rows_B.tolist()):
            # Of several epochs only the first, before the step has changed any weight.
            if row >= 0 and lengths[i] and row not in self.rows:
                self.rows[row] = {name: parts[i].clone() for name, parts in split.items()}

    def write(self, data: TensorDict) -> None:
        """Write the rows for the trainer, if it asked for any."""
        folder = tu.get_non_tensor_data(data, FOLDER, None)
        if not folder or not self.rows:
            return
        if not Path(folder).is_dir():
            logger.warning("%s is not on this node, so nothing of it is dumped: let all nodes share it.", folder)
            return
        torch.save(self.rows, Path(folder) / f"{torch.distributed.get_rank()}.pt")
