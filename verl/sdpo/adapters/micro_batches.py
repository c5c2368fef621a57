"""How the rows of a rank become micro-batches.

verl's engine splits a batch and loops over its parts in one method. It is handed one stand-in per micro-batch, so that
the loop is verl's, and the split is made where targets and teacher rows are known, once for all ranks.

Shapes: `B` rows of this rank's batch, `K` micro-batches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from tensordict import TensorDict

from verl.sdpo.adapters.layout import by_prompt
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id
from verl.utils.seqlen_balancing import rearrange_micro_batches

STAND_IN = "number"


@dataclass(frozen=True)
class Split:
    """The micro-batches of one batch, equally many on all ranks."""

    rows: list[list[int]]
    """Of each of K micro-batches this rank's rows; none where other ranks have more to do."""
    teaches: list[bool]
    """(K,), whether a row of it has a target, on any rank."""

    @classmethod
    def agreed(cls, parts: list[list[int]], targets: Sequence[bool], group) -> "Split":
        """All ranks' numbers of micro-batches and targets in one exchange; collective.

        Args:
            parts: this rank's micro-batches; a batch without any is one micro-batch without rows.
            targets: (B,), whether a row has a target; B is the same on all ranks.
        """
        parts = parts or [[]]
        # 0: no such micro-batch, 1: one without target, 2: one with a target.
        states = [1 + any(targets[row] for row in rows) for rows in parts]
        found = torch.tensor(states + [0] * (len(targets) - len(parts)), device=get_device_id())
        torch.distributed.all_reduce(found, op=torch.distributed.ReduceOp.MAX, group=group)
        most = [state for state in found.tolist() if state]
        return cls(parts + [[]] * (len(most) - len(parts)), [state == 2 for state in most])

    def stand_ins(self) -> TensorDict:
        """What verl's engine splits and loops over in the place of the rows: (K,) numbers of micro-batches."""
        numbers = torch.arange(len(self.rows))
        settings = {"use_dynamic_bsz": False, "micro_batch_size_per_gpu": 1}
        # verl sums the mask to a denominator of its own.
        return tu.get_tensordict({STAND_IN: numbers, "loss_mask": torch.zeros_like(numbers)}, non_tensor_dict=settings)

    def pick(self, data: TensorDict, number: int) -> TensorDict:
        """A micro-batch. Where this rank has no row: one without a token to learn from, as its calls are collective."""
        rows = self.rows[number]
        batch = tu.index_select_tensor_dict(data, rows or [0])
        if not rows:
            batch["response_mask"] = batch["response_mask"] * 0
        return batch


def parts_of(
    data: TensorDict, is_read: Sequence[bool], *, shares_prefixes: bool, forward_only: bool
) -> list[list[int]]:
    """The micro-batches of those rows that are read, as verl's settings in `data` say."""
    order = by_prompt(data).tolist() if shares_prefixes else range(len(data))
    rows = [row for row in order if is_read[row]]
    if not tu.get_non_tensor_data(data, "use_dynamic_bsz", default=True):
        size = data["micro_batch_size_per_gpu"]
        return _next_fit([[row] for row in rows], lambda part: len(part) <= size)
    fields = ["input_ids"] if forward_only else ["input_ids", "teacher_input_ids"]
    lengths = torch.stack([data[field].offsets().diff() for field in fields]).amax(0)[rows]
    parts = _balanced(lengths, data["max_token_len_per_gpu"])
    return [[rows[i] for i in part] for part in parts]


def _next_fit(units: list[list[int]], fits: Callable[[list[int]], bool]) -> list[list[int]]:
    """Units in their order, as many together as fit."""
    parts: list[list[int]] = []
    for unit in units:
        if parts and fits(parts[-1] + unit):
            parts[-1] += unit
        else:
            parts.append([*unit])
    return parts


def _balanced(lengths: torch.Tensor, most: int) -> list[list[int]]:
    """verl's dynamic micro-batches of units with so many tokens, which it reads off `input_ids`."""
    if not len(lengths):
        return []
    offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    placeholder = torch.zeros(int(offsets[-1]), dtype=torch.int8, device=offsets.device)
    units = TensorDict({"input_ids": torch.nested.nested_tensor_from_jagged(placeholder, offsets)}, len(lengths))
    return rearrange_micro_batches(units, most)[1]
