"""The plot, and the command that draws it beside the text."""

import sys

import pytest

from tests.sdpo.report.synthetic import make_run
from verl.sdpo.report import __main__ as program


@pytest.mark.parametrize(
    ("name", "begins"), [("accuracy.png", b"\x89PNG"), ("new/accuracy.pdf", b"%PDF"), ("accuracy", b"\x89PNG")]
)
def test_the_plot_is_an_image_of_the_kind_that_its_name_says(tmp_path, monkeypatch, capsys, name, begins):
    runs = [make_run(tmp_path / f"alpha={seed}", seed=seed, steps=2) for seed in (0, 1)]
    words = [str(runs[0]), f"mine={runs[1]}", "--text", "--plot", str(tmp_path / name)]
    monkeypatch.setattr(sys, "argv", ["report", *words])
    assert program.main() == 0
    assert (tmp_path / name).read_bytes().startswith(begins)
    assert not list(tmp_path.rglob("*.partial*"))
    text = capsys.readouterr().out
    assert text.endswith(f"\nPlot: {tmp_path / name}\n") and "Report:" not in text
    # A folder's name may hold an equals sign; a method may be named before it.
    assert "| SDPO " in text and "mine minus SDPO" in text
    assert not (tmp_path / "report.html").exists()
