"""The order in which rows are updated."""

import random

import pytest
import torch

from verl.sdpo.context import Grading, Groups, Rollout
from verl.sdpo.teacher_rows import Sample, TeacherRows
from verl.sdpo.trainer.balance import update_order


def make(lengths: dict[int, list[tuple[int, int]]], targets=True):
    """Samples of groups, in a random order, and their teacher rows. lengths: group -> (response, teacher row)."""
    pairs = []
    for group, members in lengths.items():
        for attempt, (response, teacher) in enumerate(members):
            rollout = Rollout(f"uid{group}", attempt, [], "", 0.0)
            sample = Sample(rollout, torch.full((5,), group), torch.arange(response))
            pairs.append((sample, torch.zeros(teacher)))
    random.Random(3).shuffle(pairs)
    samples, rows = zip(*pairs, strict=True)
    weights = torch.full((len(rows),), float(targets))
    return list(samples), TeacherRows(list(rows), weights, weights, [], Groups([], Grading(), step=0), {}, None)


def parts(samples, rows, num_ranks, seed=0, reads_every_row=True, teacher_passes=1):
    """What each rank gets, as (group, attempt)."""
    order = update_order(
        samples,
        rows,
        reads_every_row=reads_every_row,
        teacher_passes=teacher_passes,
        num_ranks=num_ranks,
        seed=seed,
    )
    assert sorted(order) == list(range(len(samples)))
    names = [(int(samples[i].prompt_ids[0]), samples[i].rollout.attempt) for i in order]
    size = len(names) // num_ranks
    return [names[k * size : (k + 1) * size] for k in range(num_ranks)]


def test_ranks_get_equal_teacher_rows():
    """Equal students: a long and a short teacher row per rank, where verl's order may put both long ones on one."""
    long, short = [(4, 4000)] * 2, [(4, 40)] * 2
    samples, rows = make({1: long, 2: long, 3: short, 4: short})
    for part in parts(samples, rows, num_ranks=2):
        groups = {group for group, _ in part}
        assert len(groups & {1, 2}) == len(groups & {3, 4}) == 1


@pytest.mark.parametrize(("passes", "partner"), [(1, 1), (2, 2)])
def test_every_forward_pass_of_the_teacher_counts(passes, partner):
    """Work by hand, in passes x tokens: group 1 takes 3 x 600, group 3 takes 3 x 500, group 2 takes 1300 or 2 x 1300.

    The small group 4 joins the largest: group 1, or with a trust-region teacher group 2.
    """
    samples, rows = make({1: [(595, 1)] * 2, 2: [(1, 1300)] * 2, 3: [(495, 1)] * 2, 4: [(1, 1)] * 2})
    for part in parts(samples, rows, num_ranks=2, teacher_passes=passes):
        groups = {group for group, _ in part}
        assert (4 in groups) == (partner in groups), part


def test_rows_without_target_weigh_nothing_for_the_teacher():
    """Groups 1 and 2 have the long responses; their teacher rows would hide it, were they computed."""
    long, short = [(3000, 10)] * 2, [(10, 9000)] * 2
    samples, rows = make({1: long, 2: long, 3: short, 4: short}, targets=False)
    for part in parts(samples, rows, num_ranks=2):
        assert len({group for group, _ in part} & {1, 2}) == 1


@pytest.mark.parametrize("reads_every_row", [True, False])
def test_what_the_student_does_not_compute_weighs_nothing(reads_every_row):
    """Groups 1 and 2 have the longest responses and no target: where they are left out, 3 and 4 are to be parted."""
    samples, rows = make(
        {1: [(4000, 4)] * 2, 2: [(4000, 4)] * 2, 3: [(400, 4)] * 2, 4: [(400, 4)] * 2, 5: [(2, 4)] * 2, 6: [(2, 4)] * 2}
    )
    weights = torch.tensor([float(sample.prompt_ids[0] > 2) for sample in samples])
    rows = TeacherRows(rows.input_ids, weights, weights, [], rows.groups, {}, None)
    longest = {1, 2} if reads_every_row else {3, 4}
    for part in parts(samples, rows, num_ranks=2, reads_every_row=reads_every_row):
        assert len({group for group, _ in part} & longest) == 1


def test_a_group_stays_together_in_the_order_of_its_attempts():
    samples, rows = make({group: [(4, 9)] * 3 for group in range(1, 7)})
    for part in parts(samples, rows, num_ranks=3):
        assert [attempt for _, attempt in part] == [0, 1, 2] * 2
        assert [group for group, _ in part[::3]] == [group for group, _ in part[2::3]]


@pytest.mark.parametrize("lengths", [{1: 2, 2: 2, 3: 2}, {1: 4, 2: 2}], ids=["three groups", "unequal groups"])
def test_groups_are_split_where_ranks_would_get_different_numbers(lengths):
    samples, rows = make({group: [(4, 9)] * size for group, size in lengths.items()})
    assert [len(part) for part in parts(samples, rows, num_ranks=2)] == [3, 3]


def test_the_order_depends_on_samples_and_seed_alone():
    samples, rows = make({group: [(4, 9)] * 2 for group in range(1, 9)})
    first = parts(samples, rows, num_ranks=1)
    backwards = TeacherRows(rows.input_ids[::-1], rows.weights, rows.weights, [], rows.groups, {}, None)
    assert parts(samples[::-1], backwards, num_ranks=1) == first
    assert parts(samples, rows, num_ranks=1, seed=1) != first
    assert [group for group, _ in first[0][::2]] != sorted(group for group, _ in first[0][::2])
