"""Packed prefixes: each distinct prompt of a micro-batch is computed once, followed by all responses to it.

A prompt and its responses form one piece of a packed sequence, and the attention mask says who reads whom. A packed
sequence is as long as the longest piece, and shorter pieces share one by bin packing, since attention costs a
sequence's square:

    tokens     p p p a a a b b      q q c c r d d .      a, b answer p; c answers q, d answers r
    positions  0 1 2 3 4 5 3 4      0 1 2 3 0 1 2 .

A response reads its prompt and itself. Attention without a window and without a state then computes for every token
what it computes in a row of its own, gradients included; a prompt's are summed over its responses either way.

Shapes: `B` rows, `T` response tokens, padded, `N` of them selected by a mask, `P` packed sequences of `S` tokens.
"""

from dataclasses import dataclass

import torch

from verl.sdpo.model import Rows

PADDING = -1


def prompts(rows: Rows) -> list[tuple[int, ...]]:
    """Return the tokens before each row's response, in a form that can be compared."""
    lengths = rows.response_lens.tolist()
    return [tuple(row[: len(row) - n].tolist()) for row, n in zip(rows.input_ids.unbind(), lengths, strict=True)]


def pack(lengths: list[int]) -> tuple[list[int], int, int]:
    """Pack pieces into sequences as long as the longest piece, by first-fit-decreasing bin packing.

    Returns:
        The start of each piece, counted through all sequences end to end; the number of sequences; their length.
    """
    longest = max(lengths)
    starts, used = [0] * len(lengths), list[int]()
    for piece in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        fits = (i for i, tokens in enumerate(used) if tokens + lengths[piece] <= longest)
        sequence = next(fits, len(used))
        if sequence == len(used):
            used.append(0)
        starts[piece] = sequence * longest + used[sequence]
        used[sequence] += lengths[piece]
    return starts, len(used), longest


@dataclass(frozen=True)
class PackedPrefixes:
    """The packed sequences that a model reads in the place of B rows."""

    input_ids: torch.Tensor
    """(P, S)."""
    position_ids: torch.Tensor
    """(P, S), every token's position in its own row."""
    attention_mask: torch.Tensor
    """(P, 1, S, S) bool, true where a token (third dimension) reads another (fourth)."""
    prompt_end: torch.Tensor
    """(B,), index of a row's last prompt token in the flattened (P * S) tokens."""
    response_start: torch.Tensor
    """(B,), index of its first response token there."""

    @classmethod
    def of(cls, rows: Rows) -> "PackedPrefixes":
        """Pack rows."""
        lengths, tokens = rows.response_lens.tolist(), rows.input_ids.unbind()
        groups: dict[tuple[int, ...], list[int]] = {}
        for row, prompt in enumerate(prompts(rows)):
            groups.setdefault(prompt, []).append(row)
        starts, count, length = pack([len(p) + sum(lengths[row] for row in groups[p]) for p in groups])
        device = rows.input_ids.device
        input_ids, position_ids = (rows.input_ids.values().new_zeros(count * length) for _ in range(2))
        # Every token is labelled twice: `segment` is the start of the prompt or response that it belongs to, `prefix`
        # the start of that one's prompt. A token reads those of its own segment and those whose segment is its prefix;
        # padding, labelled alike, reads padding, since attention to nothing would be NaN.
        segment, prefix = (torch.full((count * length,), PADDING, device=device) for _ in range(2))
        positions = torch.arange(length, device=device)
        prompt_end, response_start = [0] * len(tokens), [0] * len(tokens)

        def put(start: int, values: torch.Tensor, prefix_start: int, first_position: int) -> None:
            where = slice(start, start + len(values))
            input_ids[where], position_ids[where] = values, positions[first_position : first_position + len(values)]
            segment[where], prefix[where] = start, prefix_start

        for start, (prompt, members) in zip(starts, groups.items(), strict=True):
            end = start + len(prompt)
            put(start, tokens[members[0]][: len(prompt)], start, 0)
            place = end
            for row in members:
                put(place, tokens[row][len(prompt) :], start, len(prompt))
                prompt_end[row], response_start[row] = end - 1, place
                place += lengths[row]
        segment, prefix = (labels.view(count, length) for labels in (segment, prefix))
        read = segment.unsqueeze(1)
        mask = ((read == segment.unsqueeze(2)) | (read == prefix.unsqueeze(2))).tril()
        return cls(
            input_ids.view(count, length),
            position_ids.view(count, length),
            mask.unsqueeze(1),
            torch.tensor(prompt_end, device=device),
            torch.tensor(response_start, device=device),
        )

    def predicting(self, mask_BT: torch.Tensor) -> torch.Tensor:
        """Return the (N,) indices whose hidden states predict the masked response tokens, row by row."""
        row, step = mask_BT.nonzero(as_tuple=True)
        return torch.where(step == 0, self.prompt_end[row], self.response_start[row] + step - 1)
