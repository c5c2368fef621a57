"""Losses and metrics of several micro-batches."""

import torch

from verl.sdpo.adapters.sums import EMPTY, summed
from verl.utils.metric import Metric


def test_micro_batches_add_up_but_for_the_share_without_target():
    """Three micro-batches, of which the second has no target and so no KL. By hand."""
    loss, kl, empty = torch.tensor([0.5, 0.0, 0.25]), torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0, 0.0])
    output = {
        "model_output": {},
        "loss": list(loss),
        "metrics": {"kl": list(kl.double()), EMPTY: list(empty)},
    }
    found = summed(output)
    assert found["loss"] == [0.75] and found["model_output"] == {}
    assert found["metrics"]["kl"].aggregate() == 3.0
    assert Metric.aggregate_dp([found["metrics"]["kl"], Metric("sum", 5.0)]) == 4.0
    assert abs(found["metrics"][EMPTY].aggregate() - 1 / 3) < 1e-6
