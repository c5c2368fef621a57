"""Logs to table and plot. The numbers themselves are in test_estimates.py."""

import json
import sys

import pytest

from tests.sdpo.test_time.test_estimates import RUNS, pool, run
from verl.sdpo.test_time import discovery
from verl.sdpo.test_time.discovery import find_runs, notes, question_sets, read_run, table
from verl.sdpo.test_time.estimates import Band


def write_log(path, attempts, **config):
    header = {"method": "sdpo", "question_id": "q_1", "seed": 0, "model": "m", "budget": 4, **config}
    lines = [{"config": header}]
    for number, outcome in enumerate(attempts, 1):
        lines.append({"attempt": number, "reward": float(outcome in "cp"), "confirmed": outcome == "c"})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def cells_of(text):
    """The cells of a table, by the first one of their row."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    return {first: cells for first, *cells in rows}


# Logs


@pytest.mark.parametrize(
    ("attempts", "confirmed", "public", "unfinished"),
    [
        ("xxxx", (), (), False),
        ("xx", (), (), True),
        ("xc", (2,), (2,), False),
        ("pxc", (3,), (1, 3), False),
    ],
)
def test_logs_are_read(tmp_path, attempts, confirmed, public, unfinished):
    value = read_run(write_log(tmp_path / "a.attempts.jsonl", attempts))
    assert (value.confirmed, value.public, value.tried) == (confirmed, public, len(attempts))
    assert (value.unfinished, value.pool) == (unfinished, False)


def test_a_pool_is_read_as_one(tmp_path):
    value = read_run(write_log(tmp_path / "a.attempts.jsonl", "xcpc", method="best_of_k", pool=True))
    assert (value.pool, value.confirmed, value.public) == (True, (2, 4), (2, 3, 4))


def test_a_line_in_the_making_is_not_read(tmp_path):
    path = write_log(tmp_path / "a.attempts.jsonl", "xx")
    path.write_bytes(path.read_bytes()[:-3])
    assert read_run(path).tried == 1


def test_logs_are_found_in_folders_by_their_name(tmp_path):
    (tmp_path / "deep").mkdir()
    write_log(tmp_path / "deep" / "a.attempts.jsonl", "c")
    write_log(tmp_path / "b.attempts.jsonl", "x", method="best_of_k")
    write_log(tmp_path / "b.attempts.jsonl.set-aside", "x", method="multi_turn")
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    methods, empty = find_runs([tmp_path])
    assert {method: len(runs) for method, runs in methods.items()} == {"sdpo": 1, "best_of_k": 1}
    assert empty == []


@pytest.mark.parametrize("begun", ["", '{"config": {"meth', "header"], ids=["empty", "half a header", "header only"])
def test_a_log_that_has_just_begun_is_left_out_and_named(tmp_path, begun):
    write_log(tmp_path / "a.attempts.jsonl", "xc")
    path = write_log(tmp_path / "b.attempts.jsonl", "", seed=1)
    if begun != "header":
        path.write_text(begun)
    methods, empty = find_runs([tmp_path])
    assert [value.confirmed for value in methods["sdpo"]] == [(2,)]
    assert empty == [path]
    assert notes(methods, empty) == [f"No attempt yet, left out: {path}."]


def test_two_logs_of_one_run_are_refused(tmp_path):
    write_log(tmp_path / "a.attempts.jsonl", "c")
    write_log(tmp_path / "b.attempts.jsonl", "c")
    with pytest.raises(ValueError, match=r"a\.attempts\.jsonl and .*b\.attempts\.jsonl both are method"):
        find_runs([tmp_path])


def test_logs_of_two_models_are_refused(tmp_path):
    write_log(tmp_path / "a.attempts.jsonl", "c")
    write_log(tmp_path / "b.attempts.jsonl", "c", model="other", seed=1)
    message = r"found 2 logs .* with attempts, of the models \['m', 'other'\], expected logs of one model"
    with pytest.raises(ValueError, match=message):
        find_runs([tmp_path])


def test_a_folder_without_logs_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="found 0 logs"):
        find_runs([tmp_path])


# Table


def test_the_table_shows_what_is_known():
    text = table({"": {"sdpo": [*RUNS[:-1], run("c", 1, tried=20)]}}, Band())
    rows = cells_of(text)
    assert rows["SDPO"][:3] == ["3", "6", "1"]
    assert rows["SDPO"][3] == "50.0% (33% to 67%)"
    assert rows["SDPO"][4:] == ["-"] * 4
    assert rows["SDPO, public tests only"][3:] == ["50.0%", *["-"] * 4]
    assert "paper" not in text


def test_one_seed_gives_a_number_without_a_band():
    rows = cells_of(table({"": {"sdpo": [run("a", confirmed=2), run("b")]}}, Band()))
    assert rows["SDPO"][3:5] == ["50.0%", "50.0%"]


def test_the_table_says_which_estimate_best_of_k_is():
    stopped = [run("q_1", seed, confirmed=4, method="best_of_k") for seed in (0, 1)]
    pools = [pool("q_3", confirmed=(3, 5))]
    # 2 of 100 attempts: 1 - 84 * 83 / (100 * 99) for k=16
    assert cells_of(table({"": {"best_of_k": pools}}, Band()))["best-of-k (pass@k)"][3] == "29.6%"
    assert "best-of-k (first successes)" in cells_of(table({"": {"best_of_k": stopped}}, Band()))
    assert "best-of-k (pass@k and first successes)" in cells_of(table({"": {"best_of_k": [*stopped, *pools]}}, Band()))
    assert notes({"best_of_k": pools}, []) == []
    (note,) = notes({"best_of_k": [*stopped, *pools]}, [])
    assert note.startswith("2 of 3 logs of best-of-k stop at their first success")


def test_the_papers_questions_get_their_sets():
    hard, very_hard, other = ({"sdpo": [run(f"q_{number}")]} for number in (1, 3, 2))
    both = {"sdpo": hard["sdpo"] + very_hard["sdpo"], "multi_turn": hard["sdpo"]}
    assert question_sets(both) == {"hard": both, "very-hard": very_hard}
    assert question_sets(hard) == {"hard": hard}
    assert question_sets(very_hard) == {"very-hard": very_hard}
    mixed = {"sdpo": hard["sdpo"] + other["sdpo"]}
    assert question_sets(mixed) == {"": mixed}
    rows = cells_of(table(question_sets(both), Band()))
    assert rows["SDPO, hard"][0] == "2 of 19"
    assert rows["SDPO, very hard"][0] == "1 of 9"


def test_the_papers_numbers_are_shown_when_asked_for_and_marked():
    rows = cells_of(table({"": {"sdpo": RUNS}}, Band(), paper=True))
    assert rows["*the paper's SDPO, hard*"][3:] == ["", "", "*48.9%*", "*68.2%*", "*78.0%*"]
    assert rows["*the paper's multi-turn, very hard*"][3:] == ["", "", "*9.0%*", "*19.8%*", "*35.6%*"]
    assert rows["*the paper's best-of-k, very hard*"][3:] == ["*0.2%*", "*1.0%*", "*3.8%*", "*15.1%*", "*41.5%*"]
    assert "Fig. 13" in notes({"sdpo": RUNS}, [], paper=True)[-1]
    only = cells_of(table(question_sets({"sdpo": [run("q_3")]}), Band(), paper=True))
    assert [name for name in only if "paper" in name and "very hard" not in name] == []


def test_where_a_curve_ends_is_said_with_the_log():
    runs = [*RUNS[:-1], run("c", 1, tried=5)]
    assert notes({"sdpo": runs}, []) == ["SDPO is known up to k=5, where c_1 ends so far."]


def test_different_questions_are_pointed_out():
    assert notes({"sdpo": RUNS, "best_of_k": [pool(name) for name in "abc"]}, []) == []
    (note,) = notes({"sdpo": RUNS, "best_of_k": [pool(name) for name in "ab"]}, [])
    assert note.startswith("Not every method was run on the questions of {'SDPO': ['c']}")


# The command


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """`command(*arguments)` on a folder with two logs returns the output."""
    write_log(tmp_path / "logs.attempts.jsonl", "xxc")
    write_log(tmp_path / "b.attempts.jsonl", "xxxx", method="best_of_k")

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["discovery", str(tmp_path), *map(str, arguments)])
        discovery.main()
        return capsys.readouterr().out

    return call


def test_the_command_prints_the_table_and_draws_beside_the_logs(command, tmp_path):
    output = command()
    assert "| SDPO, hard " in output
    assert f"Plot: {tmp_path / 'discovery.png'}" in output
    assert (tmp_path / "discovery.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.pdf", b"%PDF"), ("a.svg", b"<?xml")])
def test_the_image_is_of_the_kind_that_its_name_says(command, tmp_path, name, start):
    command("--plot", tmp_path / "new" / "folder" / name, "--paper", "--log-axis", "--resample-questions")
    assert (tmp_path / "new" / "folder" / name).read_bytes().startswith(start)
    assert [file.name for file in (tmp_path / "new" / "folder").iterdir()] == [name]


def test_an_image_of_an_unknown_kind_is_refused(command, tmp_path, capsys):
    with pytest.raises(SystemExit):
        command("--plot", tmp_path / "plot.xyz")
    assert "plot.xyz: expected a name that ends in .png, .pdf, .svg" in capsys.readouterr().err


def test_without_matplotlib_there_is_a_table_and_a_sentence(command, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    output = command()
    assert "| SDPO, hard " in output
    assert f"No plot without matplotlib. Get it with: {sys.executable} -m pip install matplotlib" in output
    assert not (tmp_path / "discovery.png").exists()
    with pytest.raises(SystemExit, match="No plot without matplotlib"):
        command("--plot", tmp_path / "plot.png")


def test_logs_that_cannot_be_used_are_named_in_one_sentence(command, tmp_path):
    (tmp_path / "broken.attempts.jsonl").write_text("nonsense\n")
    with pytest.raises(SystemExit, match=r"^error: .*broken\.attempts\.jsonl, line 1: expected the header"):
        command()


def test_axes_bands_and_the_papers_lines_are_drawn(monkeypatch):
    """Contents of the figure, from the figure itself."""
    figures = []
    monkeypatch.setattr("matplotlib.pyplot.close", figures.append)
    methods = {"sdpo": [run("q_2", 0, confirmed=3), run("q_2", 1)], "best_of_k": [pool("q_2", tried=120)]}
    for paper, log_axis in ((False, False), (True, True)):
        discovery.draw(question_sets(methods), Band(), kind="png", paper=paper, log_axis=log_axis)
    linear, (log, hard, very_hard) = figures[0].axes[0], figures[1].axes
    labels = ["SDPO, 2 logs", "best-of-k (pass@k), 1 log"]
    assert len(figures[0].axes) == 1
    assert [(axes.get_xscale(), axes.get_xlim()) for axes in (linear, log)] == [("linear", (0, 100)), ("log", (1, 100))]
    for axes in (linear, log):
        assert [line.get_label() for line in axes.lines] == labels
        assert axes.lines[0].get_ydata()[[1, 2, 99]].tolist() == [0, 0.5, 0.5]
    for axes in (hard, very_hard):
        assert axes.get_xlim() == (1, 2750)
        assert [line.get_label() for line in axes.lines] == ["SDPO, paper", "best-of-k, paper", "multi-turn, paper"]
        assert list(axes.lines[0].get_xdata()) == list(range(250, 2751, 250))
    assert very_hard.lines[0].get_ydata()[0] == 0.081


def test_the_papers_curves_stand_beside_ours_on_its_questions(monkeypatch):
    figures = []
    monkeypatch.setattr("matplotlib.pyplot.close", figures.append)
    discovery.draw(question_sets({"sdpo": [run("q_1", confirmed=3)]}), Band(), kind="png", paper=True)
    (hard,) = figures[0].axes
    names = ["SDPO, 1 log", "SDPO, paper", "best-of-k, paper", "multi-turn, paper"]
    assert [line.get_label() for line in hard.lines] == names
