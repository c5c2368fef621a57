import json

import pytest

from experiments.quickstart.report import SECONDS, TRAIN, Run, report, table

HELDOUT = "val-core/renamed_key/acc/mean@1"

LOGGED = [
    {"step": 0, "data": {HELDOUT: 0.25}},
    {"step": 1, "data": {TRAIN: 0.3, SECONDS: 50.0}},
    {"step": 2, "data": {TRAIN: 0.5, SECONDS: 10.0, HELDOUT: 0.75}},
    {"step": 3, "data": {TRAIN: 0.6, SECONDS: 12.0}},
]


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    run.settings_file.write_text(json.dumps({"task": "renamed-key", "algorithm": "sdpo", "seed": 7}))
    run.metrics_file.write_text("".join(json.dumps(entry) + "\n" for entry in LOGGED))
    return run


def test_a_half_written_line_is_not_read_yet(run):
    with run.metrics_file.open("a") as file:
        file.write('{"step": 4, "da')
    assert [record["step"] for record in run.records()] == [0, 1, 2, 3]


def test_a_run_that_has_not_begun_has_no_records(tmp_path):
    assert Run(tmp_path).records() == []
    assert Run(tmp_path).seconds_per_step() is None


def test_the_table_shows_each_measured_step_and_the_median_time(run):
    header, _, row = (line.strip("| ").split("|") for line in table([run]).splitlines())
    assert [cell.strip() for cell in header] == ["held-out accuracy", "before", "step 2", "s/step"]
    assert [cell.strip() for cell in row] == ["renamed-key, SDPO, seed 7", "0.25", "0.75", "12"]


@pytest.mark.parametrize(
    ("name", "begins"), [("accuracy.png", b"\x89PNG"), ("new/accuracy.pdf", b"%PDF"), ("accuracy", b"\x89PNG")]
)
def test_the_plot_is_an_image_of_the_kind_that_its_name_says(run, tmp_path, name, begins):
    report([run], tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(begins)
    assert not list(tmp_path.rglob("*.partial*"))


def test_a_run_that_measured_nothing_is_named(tmp_path):
    with pytest.raises(ValueError, match=str(tmp_path)):
        report([Run(tmp_path)], tmp_path / "accuracy.png")


def test_a_run_without_validation_is_reported(run, tmp_path):
    """As benchmarks/quickstart.py makes them."""
    run.metrics_file.write_text(json.dumps(LOGGED[1]) + "\n")
    report([run], tmp_path / "accuracy.png")
    assert (tmp_path / "accuracy.png").exists()
    assert [cell.strip() for cell in table([run]).splitlines()[-1].strip("| ").split("|")] == [
        "renamed-key, SDPO, seed 7",
        "50",
    ]
