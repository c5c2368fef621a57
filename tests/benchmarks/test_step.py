"""What the benchmark of a whole update compares."""

from benchmarks.step import Shape, make_batch, table


def test_groups_share_what_they_would_share_in_a_training():
    batch = make_batch(Shape(groups=2, rollouts=4, prompt=5, teacher_prompt=9, response=3, micro_batch=4), 50)
    rows = [row.tolist() for row in batch["input_ids"].unbind()]
    teachers = [row.tolist() for row in batch["teacher_input_ids"].unbind()]
    assert {len(row) for row in rows} == {8} and {len(row) for row in teachers} == {12}
    assert len({tuple(row[:5]) for row in rows}) == 2
    assert [len({tuple(row[:9]) for row in teachers[i : i + 4]}) for i in (0, 4)] == [2, 2]
    assert [row[-3:] for row in rows] == [row[-3:] for row in teachers]
    assert batch["loss_mask"].unbind()[0].tolist() == [0] * 5 + [1] * 3


def test_the_table_shows_ratios_to_grpo():
    rows = [
        {"variant": "grpo", "seconds": 4.0, "peak_mib": 100.0, "teacher_mib": 0.0},
        {"variant": "sdpo", "seconds": 3.0, "peak_mib": 50.4, "teacher_mib": 10.0},
    ]
    assert table(rows).splitlines()[-1] == "| sdpo | 3.00 | 0.75 | 50 | 10 |"
