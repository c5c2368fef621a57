"""Rows that begin alike, computed once: each distinct prompt of a micro-batch, followed by all responses to it.

One line of tokens holds them all, and an attention mask says who reads whom:

    tokens     p p p a a a b b q q c c      a, b answer p; c answers q
    positions  0 1 2 3 4 5 3 4 0 1 2 3

A response reads its prompt and itself. Attention without a window and without a state gives every token what it gets in
a row of its own, gradients included; a prompt's are the sum over its responses, as they would be anyhow.

Shapes: `B` rows, `S` tokens of the line, `N` wanted response tokens.
"""

from dataclasses import dataclass

import torch

from verl.sdpo.model import Rows


def prompts(rows: Rows) -> list[tuple[int, ...]]:
    """The tokens before each row's response, to be compared."""
    lengths = rows.response_lens.tolist()
    return [tuple(row[: len(row) - n].tolist()) for row, n in zip(rows.input_ids.unbind(), lengths, strict=True)]


@dataclass(frozen=True)
class SharedLine:
    """What a model reads in the place of B rows."""

    input_ids: torch.Tensor
    """(1, S)."""
    position_ids: torch.Tensor
    """(1, S), every token's place in its own row."""
    attention_mask: torch.Tensor
    """(1, 1, S, S) bool, true where a token (third dimension) reads another (fourth)."""
    prompt_end: torch.Tensor
    """(B,), the place of a row's last prompt token."""
    response_start: torch.Tensor
    """(B,), the place of its first response token."""

    @classmethod
    def of(cls, rows: Rows) -> "SharedLine":
        lengths, tokens = rows.response_lens.tolist(), rows.input_ids.unbind()
        groups: dict[tuple[int, ...], list[int]] = {}
        for row, prompt in enumerate(prompts(rows)):
            groups.setdefault(prompt, []).append(row)
        pieces: list[torch.Tensor] = []
        # Of every piece: the place of its first token in a row, and the piece of its prompt, which may be itself.
        firsts: list[int] = []
        prompt_of: list[int] = []
        place, prompt_end, response_start = 0, [0] * len(tokens), [0] * len(tokens)
        for prompt, members in groups.items():
            prompt_piece, end = len(pieces), place + len(prompt)
            pieces.append(tokens[members[0]][: len(prompt)])
            firsts.append(0)
            prompt_of.append(prompt_piece)
            place = end
            for row in members:
                prompt_end[row], response_start[row] = end - 1, place
                pieces.append(tokens[row][len(prompt) :])
                firsts.append(len(prompt))
                prompt_of.append(prompt_piece)
                place += lengths[row]
        device = rows.input_ids.device

        def whole(values: list[int]) -> torch.Tensor:
            return torch.tensor(values, device=device)

        sizes = whole([len(piece) for piece in pieces])
        piece = torch.arange(len(pieces), device=device).repeat_interleave(sizes)
        places = torch.arange(place, device=device)
        starts = sizes.cumsum(0) - sizes
        positions = places - starts[piece] + whole(firsts)[piece]
        reads_prompt = whole(prompt_of)[piece].unsqueeze(1) == piece
        mask = (reads_prompt | (piece.unsqueeze(1) == piece)) & (places.unsqueeze(1) >= places)
        return cls(
            torch.cat(pieces).unsqueeze(0),
            positions.unsqueeze(0),
            mask[None, None],
            whole(prompt_end),
            whole(response_start),
        )

    def predicting(self, wanted: torch.Tensor) -> torch.Tensor:
        """(N,), the places that predict the wanted response tokens, (B, T) bool, row by row."""
        row, step = wanted.nonzero(as_tuple=True)
        return torch.where(step == 0, self.prompt_end[row], self.response_start[row] + step - 1)
