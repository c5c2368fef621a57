"""Losses and metrics of several micro-batches."""

import torch

from verl.sdpo.engine.sums import EMPTY, empty_share, summed
from verl.utils.metric import Metric


def test_micro_batches_add_up():
    """Three micro-batches, of which the second has no target and so no KL. By hand."""
    loss, kl = torch.tensor([0.5, 0.0, 0.25]), torch.tensor([1.0, 2.0])
    output = {"model_output": {}, "loss": list(loss), "metrics": {"kl": list(kl.double())}}
    found = summed(output)
    assert found["loss"] == [0.75] and found["model_output"] == {}
    assert found["metrics"]["kl"].aggregate() == 3.0
    assert Metric.aggregate_dp([found["metrics"]["kl"], Metric("sum", 5.0)]) == 4.0


def test_share_of_micro_batches_without_target():
    found = empty_share([[0, 1], [2, 3], [4]], [False, True, False, False, False])
    assert found[EMPTY].aggregate() == 2 / 3
