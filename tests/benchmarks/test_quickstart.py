"""What benchmarks.quickstart makes of the records of a training."""

from benchmarks.quickstart import summary, table


def records(*steps: tuple[float, float]) -> list[dict]:
    return [{"step": i, "train": train, "seconds": seconds} for i, (train, seconds) in enumerate(steps, 1)]


def test_summary_by_hand():
    """Goal 0.9, reached at step 3 after 30 + 20 + 10 seconds; what falls again does not undo it."""
    found = summary(records((0.2, 30), (0.5, 20), (0.90625, 10), (0.8, 16)))
    assert found == {
        "seconds_per_step": 18,
        "steps_to_goal": 3,
        "minutes_to_goal": 1.0,
        "train": [0.2, 0.5, 0.90625, 0.8],
    }


def test_table_says_what_never_gets_there():
    rows = [
        {"system": "ours", "seed": 0, "command_seconds": 80.4, **summary(records((0.95, 30)))},
        {"system": "trl", "seed": 1, "command_seconds": 130, **summary(records((0.1, 60), (0.2, 60)))},
    ]
    assert table(rows).splitlines()[2:] == [
        "| SDPO, ours | 0 | 30.0 | 80 | 1 | 0.5 |",
        "| SDPO, TRL | 1 | 60.0 | 130 | never | |",
    ]
