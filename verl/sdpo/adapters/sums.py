"""Losses and metrics of a mini-batch's micro-batches, which stay on the accelerator until the last has run."""

from typing import Any

import torch

from verl.utils.metric import Metric

# Reported once per micro-batch; all else adds up.
EMPTY = "self_distillation/empty_target_batch"


def summed(output: dict[str, Any]) -> dict[str, Any]:
    """What verl's engine returns of a mini-batch, with one number for each list of tensors: in one transfer."""
    columns = {"loss": output["loss"], **output["metrics"]}
    totals = torch.stack([torch.stack(values).sum() for values in columns.values()]).tolist()
    loss, *rest = totals
    metrics = {name: Metric("sum", total) for name, total in zip(output["metrics"], rest, strict=True)}
    if EMPTY in metrics:
        metrics[EMPTY] = Metric("mean", metrics[EMPTY].values[0] / len(output["metrics"][EMPTY]))
    return output | {"loss": [loss], "metrics": metrics}
