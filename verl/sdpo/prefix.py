"""Rows that begin alike, computed once: each distinct prompt of a micro-batch, followed by all responses to it.

A prompt and its responses stand in one line of tokens, and an attention mask says who reads whom. Lines are as long as
the longest needs to be, and shorter ones share a line, since attention costs a line's square:

    tokens     p p p a a a b b      q q c c r d d .      a, b answer p; c answers q, d answers r
    positions  0 1 2 3 4 5 3 4      0 1 2 3 0 1 2 .

A response reads its prompt and itself. Attention without a window and without a state gives every token what it gets in
a row of its own, gradients included; a prompt's are the sum over its responses, as they would be anyhow.

Shapes: `B` rows, `L` lines of `S` tokens, `N` wanted response tokens.
"""

from dataclasses import dataclass

import torch

from verl.sdpo.model import Rows

PADDING = -1


def prompts(rows: Rows) -> list[tuple[int, ...]]:
    """The tokens before each row's response, to be compared."""
    lengths = rows.response_lens.tolist()
    return [tuple(row[: len(row) - n].tolist()) for row, n in zip(rows.input_ids.unbind(), lengths, strict=True)]


def line_starts(lengths: list[int]) -> tuple[list[int], int, int]:
    """Where pieces of these lengths begin when lines stand one after the other, first fit, the longest first; then the
    number of lines and their length.
    """
    longest = max(lengths)
    starts, filled = [0] * len(lengths), list[int]()
    for piece in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        line = next((i for i, used in enumerate(filled) if used + lengths[piece] <= longest), len(filled))
        filled += [0] * (line == len(filled))
        starts[piece] = line * longest + filled[line]
        filled[line] += lengths[piece]
    return starts, len(filled), longest


@dataclass(frozen=True)
class SharedLines:
    """What a model reads in the place of B rows."""

    input_ids: torch.Tensor
    """(L, S)."""
    position_ids: torch.Tensor
    """(L, S), every token's place in its own row."""
    attention_mask: torch.Tensor
    """(L, 1, S, S) bool, true where a token (third dimension) reads another (fourth)."""
    prompt_end: torch.Tensor
    """(B,), the place of a row's last prompt token, counted through all lines."""
    response_start: torch.Tensor
    """(B,), the place of its first response token."""

    @classmethod
    def of(cls, rows: Rows) -> "SharedLines":
        lengths, tokens = rows.response_lens.tolist(), rows.input_ids.unbind()
        groups: dict[tuple[int, ...], list[int]] = {}
        for row, prompt in enumerate(prompts(rows)):
            groups.setdefault(prompt, []).append(row)
        starts, num_lines, length = line_starts([len(p) + sum(lengths[row] for row in groups[p]) for p in groups])
        device = rows.input_ids.device
        input_ids, position_ids = (rows.input_ids.values().new_zeros(num_lines * length) for _ in range(2))
        # Of every token: the prompt or response that it belongs to, by the place of its first token, and its prompt.
        piece, prompt_piece = (torch.full((num_lines * length,), PADDING, device=device) for _ in range(2))
        counted = torch.arange(length, device=device)
        prompt_end, response_start = [0] * len(tokens), [0] * len(tokens)

        def put(place: int, values: torch.Tensor, prompt_place: int, first: int) -> None:
            where = slice(place, place + len(values))
            input_ids[where], position_ids[where] = values, counted[first : first + len(values)]
            piece[where], prompt_piece[where] = place, prompt_place

        for start, (prompt, members) in zip(starts, groups.items(), strict=True):
            end = start + len(prompt)
            put(start, tokens[members[0]][: len(prompt)], start, 0)
            place = end
            for row in members:
                put(place, tokens[row][len(prompt) :], start, len(prompt))
                prompt_end[row], response_start[row] = end - 1, place
                place += lengths[row]
        piece, prompt_piece = (of.view(num_lines, length) for of in (piece, prompt_piece))
        read = piece.unsqueeze(1)
        mask = ((read == piece.unsqueeze(2)) | (read == prompt_piece.unsqueeze(2))).tril()
        return cls(
            input_ids.view(num_lines, length),
            position_ids.view(num_lines, length),
            mask.unsqueeze(1),
            torch.tensor(prompt_end, device=device),
            torch.tensor(response_start, device=device),
        )

    def predicting(self, wanted: torch.Tensor) -> torch.Tensor:
        """(N,), the places that predict the wanted response tokens, (B, T) bool, row by row."""
        row, step = wanted.nonzero(as_tuple=True)
        return torch.where(step == 0, self.prompt_end[row], self.response_start[row] + step - 1)
