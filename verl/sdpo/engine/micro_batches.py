"""How the rows of a rank become micro-batches.

verl's engine splits a batch and loops over its parts in one method. It is handed one stand-in per micro-batch, so that
the loop is verl's, and the split is made where targets, teacher rows and shared prompts are known, once for all ranks.

Shapes: `B` rows of this rank's batch, `K` micro-batches.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from tensordict import NonTensorStack, TensorDict

from verl.sdpo.model import Rows
from verl.sdpo.prefix import line_starts, prompts
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id
from verl.utils.seqlen_balancing import rearrange_micro_batches

STAND_IN = "number"


def without_objects(data: TensorDict) -> TensorDict:
    """A new dict without what samples have as Python objects, messages and the like, which no model reads.

    Cutting these into micro-batches and moving them would take a small model as long as its forward pass.
    """
    return data.exclude(*[name for name, field in data.items() if isinstance(field, NonTensorStack)])


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


@dataclass(frozen=True)
class Reading:
    """What one model reads of B rows."""

    rows: list[bool]
    """(B,), which of them."""
    prompts: list[int]
    """(B,), a number for each row's prompt, the same for equal ones where they are computed once."""
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
        """As one micro-batch: the tokens of each row that the model reads, and of each prompt that it reads again."""
        whole, again, seen = [], [], set()
        for row in rows:
            if self.rows[row]:
                whole.append(self.prompt_lens[row] + self.response_lens[row])
                if self.prompts[row] in seen:
                    again.append(self.prompt_lens[row])
                seen.add(self.prompts[row])
        return whole, again

    def tokens(self, rows: Iterable[int]) -> int:
        """What the model computes of them as one micro-batch; a prompt that rows share counts once, and the padding of
        lines counts.
        """
        read = [row for row in rows if self.rows[row]]
        if not (self.shares_prefixes and read):
            return sum(self.prompt_lens[row] + self.response_lens[row] for row in read)
        in_line = {self.prompts[row]: self.prompt_lens[row] for row in read}
        for row in read:
            in_line[self.prompts[row]] += self.response_lens[row]
        _, lines, length = line_starts(list(in_line.values()))
        return lines * length


class Packing:
    """A rank's rows, to be put into micro-batches as verl's settings in `data` say."""

    def __init__(self, data: TensorDict, *, shares_prefixes: bool, forward_only: bool):
        every = [True] * len(data)
        self.targets = [False] * len(data) if forward_only else (data["teacher_weight"] > 0).tolist()
        """(B,), whether a row has one; the teacher reads no others."""
        self.readings = [Reading.of(data, "input_ids", every, shares_prefixes)]
        """Of the student, and of the teacher where it reads at all."""
        if not forward_only:
            self.readings.append(Reading.of(data, "teacher_input_ids", self.targets, shares_prefixes))
        self.rows = list(range(len(data)))
        self.prompts = self.readings[0].prompts
        if shares_prefixes:
            self.rows.sort(key=self._identity(data))
        self.is_dynamic = tu.get_non_tensor_data(data, "use_dynamic_bsz", default=True)
        self.most = data["max_token_len_per_gpu" if self.is_dynamic else "micro_batch_size_per_gpu"]

    def _identity(self, data: TensorDict) -> Callable[[int], tuple]:
        """What to sort rows by, so that equal prompts, then equal teacher prompts, stand together, and that nothing
        depends on which row was finished first.
        """
        responses = [tuple(response.tolist()) for response in data["responses"].unbind()]
        return lambda row: (*(reading.prompts[row] for reading in self.readings), responses[row])

    def tokens(self, rows: list[int]) -> int:
        """What student and teacher compute of a micro-batch of these rows."""
        return sum(reading.tokens(rows) for reading in self.readings)

    def computed(self, parts: Sequence[list[int]]) -> list[tuple[list[int], list[int]]]:
        """`Reading.lengths` of all micro-batches together, of the student, and of the teacher where it reads."""
        totals = []
        for reading in self.readings:
            lengths = [reading.lengths(rows) for rows in parts]
            totals.append(([n for whole, _ in lengths for n in whole], [n for _, again in lengths for n in again]))
        return totals

    def parts(self, is_read: Sequence[bool] | None = None) -> list[list[int]]:
        """The micro-batches of those rows that are read, by default of all. Rows of one prompt stay together, if they
        fit.
        """
        rows = [row for row in self.rows if is_read is None or is_read[row]]
        groups = [list(group) for _, group in groupby(rows, key=self.prompts.__getitem__)]
        units = [unit for group in groups for unit in self._next_fit([[row] for row in group])]
        if self.readings[0].shares_prefixes:
            # Lines of like lengths have little padding, which no sum over units knows.
            return self._next_fit(sorted(units, key=self.tokens, reverse=True))
        if not self.is_dynamic:
            return self._next_fit(units)
        parts = _balanced([self.tokens(unit) for unit in units], self.most)
        return [[row for unit in part for row in units[unit]] for part in parts]

    def _next_fit(self, units: list[list[int]]) -> list[list[int]]:
        """Units in their order, as many together as fit."""
        size = self.tokens if self.is_dynamic else len
        parts: list[list[int]] = []
        for unit in units:
            if parts and size(parts[-1] + unit) <= self.most:
                parts[-1] += unit
            else:
                parts.append([*unit])
        return parts


def _balanced(lengths: list[int], most: int) -> list[list[int]]:
    """verl's dynamic micro-batches of units with so many tokens, the largest first, so that ranks wait little for each
    other and what does not fit into memory fails at once. verl reads lengths off `input_ids`.
    """
    if not lengths:
        return []
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    placeholder = torch.zeros(int(offsets[-1]), dtype=torch.int8)
    units = TensorDict({"input_ids": torch.nested.nested_tensor_from_jagged(placeholder, offsets)}, len(lengths))
    _, parts = rearrange_micro_batches(units, most)
    return sorted(parts, key=lambda part: sum(lengths[unit] for unit in part), reverse=True)
