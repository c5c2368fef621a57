"""Losses and metrics of a mini-batch's micro-batches, which stay on the accelerator until the last has run."""

from collections.abc import Sequence
from typing import Any

import torch

from verl.utils.metric import Metric

EMPTY = "self_distillation/empty_target_batch"


def summed(output: dict[str, Any]) -> dict[str, Any]:
    """What verl's engine returns of a mini-batch, with one number for each list of tensors: in one transfer."""
    columns = {"loss": output["loss"], **output["metrics"]}
    totals = torch.stack([torch.stack(values).sum() for values in columns.values()]).tolist()
    loss, *rest = totals
    metrics = {name: Metric("sum", total) for name, total in zip(output["metrics"], rest, strict=True)}
    return output | {"loss": [loss], "metrics": metrics}


def empty_share(micro_batches: Sequence[Sequence[int]], targets: Sequence[bool]) -> dict[str, Metric]:
    """The share of micro-batches, lists of rows, that have no row with a target."""
    empty = [not any(targets[row] for row in rows) for rows in micro_batches]
    return {EMPTY: Metric("mean", sum(empty) / len(empty))}
