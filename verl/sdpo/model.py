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

    def only(self, wanted_BT: torch.Tensor) -> tuple["Rows", torch.Tensor]:
        """The rows that have a wanted token, and theirs; if none has, a single token, as something must run."""
        has_wanted = wanted_BT.any(-1).tolist()
        if all(has_wanted):
            return self, wanted_BT
        rows, chosen = self.input_ids.unbind(), [row for row, wanted in enumerate(has_wanted) if wanted]
        if not chosen:
            token = torch.nested.as_nested_tensor([rows[0][:1]], layout=torch.jagged)
            return Rows(token, torch.zeros_like(self.response_lens[:1])), wanted_BT[:1]
        input_ids = torch.nested.as_nested_tensor([rows[row] for row in chosen], layout=torch.jagged)
        return Rows(input_ids, self.response_lens[chosen]), wanted_BT[chosen]


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
