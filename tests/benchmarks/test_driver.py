"""benchmarks.driver measures rows that all have a demonstration."""

from benchmarks.driver import measure, table
from tests.e2e.tiny import build_model


def test_every_phase_is_measured(tmp_path):
    path = str(build_model(tmp_path))
    seconds = measure(path, questions=2, rollouts=4, prompt=8, tokens=16, repeats=1)
    assert list(seconds) == ["decode", "teacher rows", "jagged", "order"]
    assert all(value > 0 for value in seconds.values())
    assert table({"decode": 1.25, "order": 0.5}).splitlines()[-1] == "| sum | 1.75 |"
