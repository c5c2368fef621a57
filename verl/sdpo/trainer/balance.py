"""Assignment of rows to ranks and mini-batches: verl's order knows nothing of the teacher's rows.

verl balances ranks by the student's rows before these exist, and leaves each rank's rows in the order in which they
finished, so that the shortest responses make the first mini-batch.
"""

import random
from collections.abc import Sequence

import torch

from verl.sdpo.teacher import UPDATE_PASSES
from verl.sdpo.teacher_rows import Sample, TeacherRows
from verl.utils.seqlen_balancing import calculate_workload, get_seqlen_balanced_partitions


def update_order(
    samples: Sequence[Sample],
    rows: TeacherRows,
    *,
    reads_every_row: bool,
    teacher_passes: int,
    num_ranks: int,
    seed: int,
) -> list[int]:
    """The order of a batch that verl cuts into `num_ranks` equal parts, and each part into mini-batches.

    A group stays on one rank, where its samples share their prompt, if there are as many groups for every rank. A
    rank's groups come in random order. Nothing depends on the order of the samples.

    Args:
        reads_every_row: whether the student computes rows without a teacher context, too.
        teacher_passes: see `Teacher.passes`.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, sample in enumerate(samples):
        groups.setdefault(tuple(sample.prompt_ids.tolist()), []).append(i)
    units = [sorted(groups[prompt], key=lambda i: _identity(samples[i])) for prompt in sorted(groups)]
    if len({len(unit) for unit in units}) > 1 or len(units) % num_ranks:
        units = [[i] for unit in units for i in unit]
    has_context = rows.weights > 0
    student = torch.tensor([len(sample.prompt_ids) + len(sample.response_ids) for sample in samples])
    student = student * (has_context | reads_every_row)
    teacher = torch.tensor([len(row) for row in rows.input_ids]) * has_context
    work = UPDATE_PASSES * calculate_workload(student) + teacher_passes * calculate_workload(teacher)
    work_of_units = [int(work[unit].sum()) for unit in units]
    parts = get_seqlen_balanced_partitions(work_of_units, k_partitions=num_ranks, equal_size=True)
    shuffle = random.Random(seed).shuffle
    for part in parts:
        shuffle(part)
    return [i for part in parts for unit in part for i in units[unit]]


def _identity(sample: Sample) -> tuple:
    return sample.rollout.attempt, tuple(sample.response_ids.tolist())
