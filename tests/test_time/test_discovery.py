import json

import numpy as np
import pytest

from verl.sdpo.test_time import discovery
from verl.sdpo.test_time.discovery import Run, bootstrap, find_runs, horizon, read_run, table


def run(question, seed=0, *, confirmed=None, tried=None, public=None, method="sdpo", budget=100):
    tried = tried or confirmed or budget
    return Run(method, question, seed, "model", budget, tried, confirmed, public or confirmed)


# a: solved at 2 and at 8; b: solved at 4 and never; c: never, twice.
RUNS = [
    run("a", 0, confirmed=2),
    run("a", 1, confirmed=8),
    run("b", 0, confirmed=4),
    run("b", 1),
    run("c", 0),
    run("c", 1, public=50),
]


def write_log(path, attempts, **config):
    header = {"method": "sdpo", "question_id": "q_1", "seed": 0, "model": "m", "budget": 4, **config}
    lines = [{"config": header}]
    for number, outcome in enumerate(attempts, 1):
        lines.append({"attempt": number, "reward": float(outcome in "cp"), "confirmed": outcome == "c"})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_discovery_is_the_mean_over_questions_of_the_mean_over_their_runs():
    """k=1: none. k=2: a 1/2, b 0, c 0: 1/6. k=4: a 1/2, b 1/2: 1/3. k=8: a 1, b 1/2: 1/2. No more until 100."""
    assert discovery.discovery(RUNS, [1, 2, 4, 8, 100]) == pytest.approx([0, 1 / 6, 1 / 3, 1 / 2, 1 / 2])


def test_a_question_with_more_runs_weighs_no_more():
    runs = [*RUNS, *(run("c", seed) for seed in range(2, 20))]
    assert discovery.discovery(runs, [8]) == pytest.approx([1 / 2])


def test_public_successes_are_counted_apart():
    assert discovery.discovery(RUNS, [50], "public") == pytest.approx([(1 + 1 / 2 + 1 / 2) / 3])


def test_a_stopped_run_says_nothing_beyond_its_last_attempt():
    runs = [*RUNS[:-1], run("c", 1, tried=5)]
    assert horizon(RUNS, "confirmed") == 100
    assert horizon(runs, "confirmed") == 5
    assert discovery.discovery(runs, [4, 5, 6, 8]) == pytest.approx([1 / 3, 1 / 3, np.nan, np.nan], nan_ok=True)
    assert [value.unfinished for value in runs] == [False] * 5 + [True]


def test_runs_that_were_all_solved_are_known_at_every_k():
    assert discovery.discovery([run("a", confirmed=3)], [2, 3, 10**6]).tolist() == [0, 1, 1]


def test_the_bootstrap_repeats_and_depends_on_its_seed():
    runs = [run(f"q_{i}", seed, confirmed=1 + (7 * i + 13 * seed) % 90) for i in range(11) for seed in range(5)]
    ks = range(1, 101)
    np.testing.assert_array_equal(bootstrap(runs, ks), bootstrap(runs, ks))
    assert not np.array_equal(bootstrap(runs, ks), bootstrap(runs, ks, seed=1))


def test_the_band_holds_the_estimate_and_grows_with_disagreement():
    low, high = bootstrap(RUNS, [1, 8])
    assert low[0] == high[0] == 0
    assert low[1] < 1 / 2 < high[1]
    assert bootstrap([run("a", confirmed=1), run("b", confirmed=1)], [1]).tolist() == [[1], [1]]


def test_the_band_of_two_questions_is_the_binomial_one():
    """One solved, one not: the mean of two draws is 0, 1/2 or 1 with 1/4, 1/2, 1/4, so 95 % reach from 0 to 1."""
    low, high = bootstrap([run("a", confirmed=1), run("b")], [1])
    assert (low[0], high[0]) == (0, 1)


@pytest.mark.parametrize(
    ("attempts", "confirmed", "public", "unfinished"),
    [
        ("xxxx", None, None, False),
        ("xx", None, None, True),
        ("xc", 2, 2, False),
        ("pxc", 3, 1, False),
        ("", None, None, True),
    ],
)
def test_logs_are_read(tmp_path, attempts, confirmed, public, unfinished):
    value = read_run(write_log(tmp_path / "a.attempts.jsonl", attempts))
    assert (value.confirmed, value.public, value.tried) == (confirmed, public, len(attempts))
    assert value.unfinished is unfinished


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
    methods = find_runs([tmp_path])
    assert {method: len(runs) for method, runs in methods.items()} == {"sdpo": 1, "best_of_k": 1}


def test_two_logs_of_one_run_are_refused(tmp_path):
    write_log(tmp_path / "a.attempts.jsonl", "c")
    write_log(tmp_path / "b.attempts.jsonl", "c")
    with pytest.raises(ValueError, match=r"a\.attempts\.jsonl and .*b\.attempts\.jsonl both are method"):
        find_runs([tmp_path])


def test_logs_of_two_models_are_refused(tmp_path):
    write_log(tmp_path / "a.attempts.jsonl", "c")
    write_log(tmp_path / "b.attempts.jsonl", "c", model="other", seed=1)
    with pytest.raises(ValueError, match=r"found 2 logs .* of the models \['m', 'other'\], expected logs of one model"):
        find_runs([tmp_path])


def test_a_folder_without_logs_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="found 0 logs"):
        find_runs([tmp_path])


def test_the_table_shows_what_is_known_and_marks_the_papers_numbers():
    text = table({"sdpo": [*RUNS[:-1], run("c", 1, tried=20)]})
    rows = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in text.splitlines()}
    values = discovery.discovery(RUNS, [16])
    assert rows["SDPO"][:3] == ["3", "6", "1"]
    assert rows["SDPO"][3].startswith(f"{values[0]:.1%} (")
    assert rows["SDPO"][4:] == ["-"] * 4
    assert rows["*the paper's SDPO, hard, 19 questions*"][-1] == "*78.0 %*"
    assert rows["*the paper's multi-turn, very hard, 9 of them*"][-1] == "*35.6 %*"


def test_different_questions_are_pointed_out():
    methods = {"sdpo": RUNS, "best_of_k": RUNS[:4]}
    assert discovery.different_questions({"sdpo": RUNS, "best_of_k": RUNS}) is None
    assert "{'SDPO': ['c']}" in discovery.different_questions(methods)


def test_the_command_prints_the_table_and_draws_the_plot(tmp_path, monkeypatch, capsys):
    write_log(tmp_path / "a.attempts.jsonl", "xxc")
    write_log(tmp_path / "b.attempts.jsonl", "xxxx", method="best_of_k")
    target = tmp_path / "plot.png"
    monkeypatch.setattr("sys.argv", ["discovery", str(tmp_path), "--plot", str(target)])
    discovery.main()
    assert "| SDPO | 1 | 1 | 0 | 100.0% (100% to 100%) |" in capsys.readouterr().out
    assert target.read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob("*.tmp*"))
