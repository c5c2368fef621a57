"""Which rows make a micro-batch."""

import pytest
import torch

from verl.sdpo.engine.micro_batches import EMPTY, Packing, Split, empty_share, summed
from verl.utils import tensordict_utils as tu
from verl.utils.metric import Metric

# Prompt, teacher prompt, length of the response, target: two groups, of four rows and of one.
ROWS = [
    ([1, 1, 1], [5] * 6, 4, True),
    ([2, 2], [6] * 5, 3, True),
    ([1, 1, 1], [5] * 6, 2, True),
    ([1, 1, 1], [7] * 4, 5, True),
    ([1, 1, 1], [5] * 6, 1, False),
]


def packing(rows=ROWS, *, shares_prefixes=True, forward_only=False, **settings) -> Packing:
    def jagged(tokens):
        return torch.nested.as_nested_tensor([torch.tensor(row) for row in tokens], layout=torch.jagged)

    responses = [[10 + length] * length for _, _, length, _ in rows]
    tensors = {
        "input_ids": jagged(row[0] + response for row, response in zip(rows, responses, strict=True)),
        "teacher_input_ids": jagged(row[1] + response for row, response in zip(rows, responses, strict=True)),
        "responses": jagged(responses),
        "teacher_weight": torch.tensor([float(row[3]) for row in rows]),
    }
    defaults = {"use_dynamic_bsz": True, "max_token_len_per_gpu": 1000}
    data = tu.get_tensordict(tensors, non_tensor_dict={**defaults, **settings})
    return Packing(data, shares_prefixes=shares_prefixes, forward_only=forward_only)


def test_tokens_by_hand():
    """Of rows 0, 2, 3 and 4: 12 response tokens; 3 of the prompt, once or four times. Their teachers, but for the last
    row: 11 response tokens; prompts of 6 and 4, or of 6, 6 and 4. Sharing them, two lines of 6 + 4 + 2 tokens, of which
    the second has 4 + 5 and padding."""
    rows = [0, 2, 3, 4]
    assert packing().tokens(rows) == (12 + 3) + 2 * (6 + 4 + 2)
    assert packing(shares_prefixes=False).tokens(rows) == (12 + 4 * 3) + (11 + 6 + 6 + 4)
    assert packing(forward_only=True).tokens(rows) == 12 + 3
    assert packing().tokens([1]) == 2 + 3 + 5 + 3
    assert packing().tokens([]) == 0


def test_a_group_stays_together_and_comes_first_where_it_is_the_larger():
    """39 tokens in the first group, 13 in the second, 66 in both with padding."""
    assert [sorted(part) for part in packing(max_token_len_per_gpu=39).parts()] == [[0, 2, 3, 4], [1]]
    assert [sorted(part) for part in packing(max_token_len_per_gpu=66).parts()] == [[0, 1, 2, 3, 4]]


def test_a_group_that_does_not_fit_is_cut():
    packed = packing(max_token_len_per_gpu=25)
    parts = packed.parts()
    assert sorted(row for part in parts for row in part) == [0, 1, 2, 3, 4]
    assert all(packed.tokens(part) <= 25 for part in parts) and len(parts) == 3


def test_rows_that_are_not_read_are_in_no_micro_batch():
    packed = packing()
    assert [sorted(part) for part in packed.parts(packed.has_context)] == [[0, 1, 2, 3]]
    assert packed.parts([False] * 5) == []


@pytest.mark.parametrize("dynamic", [True, False])
def test_rows_of_one_prompt_are_split_alike_in_whatever_order_they_were_finished(dynamic):
    settings = {"use_dynamic_bsz": dynamic, "max_token_len_per_gpu": 25, "micro_batch_size_per_gpu": 2}

    def contents(rows):
        return [[rows[i][:3] for i in part] for part in packing(rows, **settings).parts()]

    assert contents(ROWS) == contents(ROWS[::-1])


def test_static_micro_batches_keep_the_order_and_cut_no_group_that_fits():
    static = {"use_dynamic_bsz": False, "micro_batch_size_per_gpu": 2}
    assert packing(shares_prefixes=False, **static).parts() == [[0, 1], [2, 3], [4]]
    three_and_three = [([p], [p], length, True) for p in (1, 2) for length in (1, 2, 3)]
    assert packing(three_and_three, **static | {"micro_batch_size_per_gpu": 4}).parts() == [[0, 1, 2], [3, 4, 5]]


def test_ranks_agree(two_ranks):
    first, second = two_ranks.run(check_agreed)
    assert first == ([[0, 2], [1], [3]], [True, False, True], ([[]], [False]))
    assert second == ([[0], [], []], [True, False, True], ([[]], [False]))


def check_agreed(engines):
    rank = torch.distributed.get_rank()
    parts, targets = (([[0, 2], [1], [3]], [True, False, False, True]), ([[0]], [False] * 4))[rank]
    split = Split.agreed(parts, targets, torch.distributed.group.WORLD)
    nothing = Split.agreed([], [False] * 4, torch.distributed.group.WORLD)
    return split.rows, split.teaches, (nothing.rows, nothing.teaches)


def test_micro_batches_add_up():
    """Three micro-batches, of which the second has no target and so no KL. By hand."""
    loss, kl = torch.tensor([0.5, 0.0, 0.25]), torch.tensor([1.0, 2.0])
    output = {"model_output": {}, "loss": list(loss), "metrics": {"kl": list(kl.double())}}
    found = summed(output)
    assert found["loss"] == [0.75] and found["model_output"] == {}
    assert found["metrics"]["kl"].aggregate() == 3.0
    assert Metric.aggregate_dp([found["metrics"]["kl"], Metric("sum", 5.0)]) == 4.0


def test_share_of_micro_batches_without_target():
    found = empty_share([[0, 1], [2, 3], [4]], [False, True, False, False, False])
    assert found[EMPTY].aggregate() == 2 / 3
