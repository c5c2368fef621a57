"""The algorithm's view of a sharded model: it runs token rows and hands its hidden states to a head."""

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
    """(B,), number of tokens of the response that ends each row."""

    def only(self, mask_BT: torch.Tensor) -> tuple["Rows", torch.Tensor]:
        """Return the rows that have a token in the mask, and their part of the mask.

        If no row has one, the result is a single token with an empty mask, since every rank must run something.
        """
        has_token = mask_BT.any(-1).tolist()
        if all(has_token):
            return self, mask_BT
        rows, chosen = self.input_ids.unbind(), [row for row, is_chosen in enumerate(has_token) if is_chosen]
        if not chosen:
            token = torch.nested.as_nested_tensor([rows[0][:1]], layout=torch.jagged)
            return Rows(token, torch.zeros_like(self.response_lens[:1])), mask_BT[:1]
        input_ids = torch.nested.as_nested_tensor([rows[row] for row in chosen], layout=torch.jagged)
        return Rows(input_ids, self.response_lens[chosen]), mask_BT[chosen]


class Model(Protocol):
    """A model over one or many ranks; its calls are collective."""

    def run(self, rows: Rows, mask_BT: torch.Tensor, head: Callable[[torch.Tensor, torch.nn.Linear], Result]) -> Result:
        """Run a forward pass and return `head(hidden_ND, output_embedding)`, called in the place of the model's head.

        Args:
            rows: B rows.
            mask_BT: bool, with N true entries: the response tokens whose predicting hidden states are handed to `head`,
                row by row.
        """
