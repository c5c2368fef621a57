"""What the algorithm sees of a sharded model: it runs token rows, and hands out hidden states where the head stands."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch

Result = TypeVar("Result")


@dataclass(frozen=True)
class Rows:
    """Token rows, prompt and response, as a model reads them."""

    input_ids: torch.Tensor
    """(B, length), jagged."""
    response_lens: torch.Tensor
    """(B,), tokens of each row's response, which ends it."""

    def select(self, chosen_B: torch.Tensor) -> "Rows":
        """The rows where `chosen_B` is true; one token of the first if none is, so that there is something to run."""
        rows, lens = self.input_ids.unbind(), self.response_lens[chosen_B]
        if len(lens):
            chosen = [row for row, is_chosen in zip(rows, chosen_B.tolist(), strict=True) if is_chosen]
        else:
            chosen, lens = [rows[0][:1]], torch.zeros_like(self.response_lens[:1])
        return Rows(torch.nested.as_nested_tensor(chosen, layout=torch.jagged), lens)


class Model(Protocol):
    """A model over one or many ranks; its calls are collective."""

    def run(
        self, rows: Rows, wanted_BT: torch.Tensor, at_head: Callable[[torch.Tensor, torch.nn.Linear], Result]
    ) -> Result:
        """What `at_head(hidden_ND, output_embedding)` returns in the place of the language-model head.

        Args:
            rows: B rows.
            wanted_BT: bool, with N true places: the response tokens whose predicting hidden states are handed to
                `at_head`, row by row.
        """
