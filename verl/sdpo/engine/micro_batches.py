"""Division of a rank's rows into micro-batches, and the sum of their results.

verl's engine splits a batch and loops over its parts in one method. SDPO needs the loop but not the split: a split must
know teacher contexts, teacher rows and shared prompts, and be the same on all ranks. So verl is given a batch of
micro-batch *indices*, one row each, which it splits into single rows; its loop then asks for micro-batch 0, 1, ...

Shapes: `B` rows of this rank's batch.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from tensordict import NonTensorStack, TensorDict

from verl.sdpo.model import Rows
from verl.sdpo.prefix import pack, prompts
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id
from verl.utils.metric import Metric
from verl.utils.seqlen_balancing import rearrange_micro_batches

# Field of the batch that verl's engine gets: the index of a micro-batch.
INDEX = "micro_batch"
EMPTY = "self_distillation/empty_target_batch"


def without_objects(data: TensorDict) -> TensorDict:
    """Return a new dict without the fields of Python objects, such as messages, which no model reads.

    Splitting them into micro-batches and moving them would take a small model as long as its forward pass.
    """
    return data.exclude(*[name for name, field in data.items() if isinstance(field, NonTensorStack)])


@dataclass(frozen=True)
class Split:
    """The micro-batches of one batch, equally many on all ranks."""

    rows: list[list[int]]
    """This rank's rows of each micro-batch; none where other ranks have more to do."""
    teaches: list[bool]
    """True for each micro-batch of which a row has a teacher context on any rank."""

    @classmethod
    def agreed(cls, parts: list[list[int]], has_context: Sequence[bool], group) -> "Split":
        """Agree with all ranks on the number of micro-batches, and on those that teach, in one exchange; collective.

        Args:
            parts: this rank's micro-batches; a batch without any is one micro-batch without rows.
            has_context: (B,), whether a row has a teacher context; B is the same on all ranks.
        """
        parts = parts or [[]]
        # 0: no such micro-batch, 1: one without a teacher context, 2: one with it. The maximum over ranks is then the
        # state of the micro-batch as a whole.
        states = [1 + any(has_context[row] for row in rows) for rows in parts]
        found = torch.tensor(states + [0] * (len(has_context) - len(parts)), device=get_device_id())
        torch.distributed.all_reduce(found, op=torch.distributed.ReduceOp.MAX, group=group)
        most = [state for state in found.tolist() if state]
        return cls(parts + [[]] * (len(most) - len(parts)), [state == 2 for state in most])

    def indices(self) -> TensorDict:
        """Return the batch that verl's engine splits and loops over: one row for each micro-batch, its index."""
        indices = torch.arange(len(self.rows))
        settings = {"use_dynamic_bsz": False, "micro_batch_size_per_gpu": 1}
        # verl sums the mask to a denominator of its own, which nothing reads here.
        return tu.get_tensordict({INDEX: indices, "loss_mask": torch.zeros_like(indices)}, non_tensor_dict=settings)

    def pick(self, data: TensorDict, index: int) -> TensorDict:
        """Return a micro-batch; if this rank has no row of it, one row with an empty mask, as calls are collective."""
        rows = self.rows[index]
        batch = tu.index_select_tensor_dict(data, rows or [0])
        if not rows:
            batch["response_mask"] = batch["response_mask"] * 0
        return batch


@dataclass(frozen=True)
class Reading:
    """The rows of a batch as one model reads them."""

    rows: list[bool]
    """(B,), whether the model reads the row."""
    prompts: list[int]
    """(B,), an id of each row's prompt, the same for equal prompts if these are computed once."""
    prompt_lens: list[int]
    response_lens: list[int]
    shares_prefixes: bool

    @classmethod
    def of(cls, data: TensorDict, field: str, rows: list[bool], shares_prefixes: bool) -> "Reading":
        response_lens = data["responses"].offsets().diff()
        prompt_lens = data[field].offsets().diff() - response_lens
        numbers = list(range(len(rows)))
        if shares_prefixes:
            found = prompts(Rows(data[field], response_lens))
            number_of = {prompt: number for number, prompt in enumerate(sorted(set(found)))}
            numbers = [number_of[prompt] for prompt in found]
        return cls(rows, numbers, prompt_lens.tolist(), response_lens.tolist(), shares_prefixes)

    def lengths(self, rows: Iterable[int]) -> tuple[list[int], list[int]]:
        """Return the tokens of each row that is read, and of each prompt that is repeated, in one micro-batch."""
        whole, again, seen = [], [], set()
        for row in rows:
            if self.rows[row]:
                whole.append(self.prompt_lens[row] + self.response_lens[row])
                if self.prompts[row] in seen:
                    again.append(self.prompt_lens[row])
                seen.add(self.prompts[row])
        return whole, again

    def tokens(self, rows: Iterable[int]) -> int:
        """Return the tokens that the model computes for these rows as one micro-batch.

        A shared prompt counts once, and the padding of packed sequences counts.
        """
        read = [row for row in rows if self.rows[row]]
        if not (self.shares_prefixes and read):
            return sum(self.prompt_lens[row] + self.response_lens[row] for row in read)
        pieces = {self.prompts[row]: self.prompt_lens[row] for row in read}
        for row in read:
            pieces[self.prompts[row]] += self.response_lens[row]
        _, sequences, length = pack(list(pieces.values()))
        return sequences * length


class Packing:
    """A rank's rows, to be divided into micro-batches by verl's settings in `data`."""

    def __init__(self, data: TensorDict, *, shares_prefixes: bool, forward_only: bool):
        every = [True] * len(data)
        self.has_context = [False] * len(data) if forward_only else (data["teacher_weight"] > 0).tolist()
        """(B,), whether a row has a teacher context; the teacher reads no others."""
        self.readings = [Reading.of(data, "input_ids", every, shares_prefixes)]
        """The student's reading, and the teacher's if it reads at all."""
        if not forward_only:
            self.readings.append(Reading.of(data, "teacher_input_ids", self.has_context, shares_prefixes))
        self.rows = list(range(len(data)))
        self.prompts = self.readings[0].prompts
        if shares_prefixes:
            self.rows.sort(key=self._identity(data))
        self.is_dynamic = tu.get_non_tensor_data(data, "use_dynamic_bsz", default=True)
        self.most = data["max_token_len_per_gpu" if self.is_dynamic else "micro_batch_size_per_gpu"]

    def _identity(self, data: TensorDict) -> Callable[[int], tuple]:
        """Return a sorting key that brings equal prompts, then equal teacher prompts, together.

        It ends with the response, so that nothing depends on which row was finished first.
        """
        responses = [tuple(response.tolist()) for response in data["responses"].unbind()]
        return lambda row: (*(reading.prompts[row] for reading in self.readings), responses[row])

    def tokens(self, rows: list[int]) -> int:
        """Return the tokens that student and teacher compute for a micro-batch of these rows."""
        return sum(reading.tokens(rows) for reading in self.readings)

    def computed(self, parts: Sequence[list[int]]) -> list[tuple[list[int], list[int]]]:
        """Return `Reading.lengths` over all micro-batches, for the student and, if it reads, for the teacher."""
        totals = []
        for reading in self.readings:
            lengths = [reading.lengths(rows) for rows in parts]
            totals.append(([n for whole, _ in lengths for n in whole], [n for _, again in lengths for n in again]))
        return totals

    def parts(self, is_read: Sequence[bool] | None = None) -> list[list[int]]:
        """Divide the rows that are read, by default all, into micro-batches.

        Rows of one prompt stay together, if they fit.
        """
        rows = [row for row in self.rows if is_read is None or is_read[row]]
        groups = [list(group) for _, group in groupby(rows, key=self.prompts.__getitem__)]
        units = [unit for group in groups for unit in self._next_fit([[row] for row in group])]
        if self.readings[0].shares_prefixes:
            # Packed sequences of similar lengths have little padding, which a sum over units would not show.
            return self._next_fit(sorted(units, key=self.tokens, reverse=True))
        if not self.is_dynamic:
            return self._next_fit(units)
        parts = _balanced([self.tokens(unit) for unit in units], self.most)
        return [[row for unit in part for row in units[unit]] for part in parts]

    def _next_fit(self, units: list[list[int]]) -> list[list[int]]:
        """Join consecutive units, as many as fit (next-fit bin packing)."""
        size = self.tokens if self.is_dynamic else len
        parts: list[list[int]] = []
        for unit in units:
            if parts and size(parts[-1] + unit) <= self.most:
                parts[-1] += unit
            else:
                parts.append([*unit])
        return parts


def _balanced(lengths: list[int], most: int) -> list[list[int]]:
    """Return verl's dynamic micro-batches of units with these numbers of tokens, the largest first.

    Ranks then wait little for each other, and a micro-batch that does not fit into memory fails at once. verl reads
    lengths off `input_ids`.
    """
    if not lengths:
        return []
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    placeholder = torch.zeros(int(offsets[-1]), dtype=torch.int8)
    units = TensorDict({"input_ids": torch.nested.nested_tensor_from_jagged(placeholder, offsets)}, len(lengths))
    _, parts = rearrange_micro_batches(units, most)
    return sorted(parts, key=lambda part: sum(lengths[unit] for unit in part), reverse=True)


def summed(output: dict[str, Any]) -> dict[str, Any]:
    """Sum the losses and metrics of a mini-batch's micro-batches, which verl's engine returns as lists of tensors.

    They stay on the accelerator until the last micro-batch has run, and are then transferred at once.
    """
    columns = {"loss": output["loss"], **output["metrics"]}
    totals = torch.stack([torch.stack(values).sum() for values in columns.values()]).tolist()
    loss, *rest = totals
    metrics = {name: Metric("sum", total) for name, total in zip(output["metrics"], rest, strict=True)}
    return output | {"loss": [loss], "metrics": metrics}


def empty_share(parts: Sequence[Sequence[int]], has_context: Sequence[bool]) -> dict[str, Metric]:
    """Return the share of micro-batches, lists of rows, that have no row with a teacher context."""
    empty = [not any(has_context[row] for row in rows) for rows in parts]
    return {EMPTY: Metric("mean", sum(empty) / len(empty))}
