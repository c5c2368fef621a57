"""What the tables and the sentences say of runs, with numbers derived by hand; and how a run is read."""

import json
import re

import numpy as np
import pytest
import yaml

from tests.sdpo.report.synthetic import make_run
from verl.sdpo.report import tables
from verl.sdpo.report.curves import PANELS, band, figures, rolling
from verl.sdpo.report.findings import findings, spans
from verl.sdpo.report.sample_pack import pack
from verl.sdpo.report.text_report import bars, text_report
from verl.sdpo.runs.reader import Run, methods, read_samples

# Two seeds, three validations, two questions.
VALUES = np.array([[[0, 0], [1, 1], [0, 1]], [[0, 0], [0, 1], [1, 1]]], dtype=float)
HOURS = np.array([[0.0, 0.9, 2.0], [0.0, 1.5, 6.0]])


def test_statistics_by_hand():
    """Seed 0 goes 0, 1, 0.5, with its best in the first hour; seed 1 goes 0, 0.5, 1: 0 and 0.5 by the clocks."""
    measured, _ = tables.bootstrap(tables.Accuracies(VALUES, HOURS, [0, 1]))
    assert measured == {
        "before": 0.0,
        "best in 1 h": (1 + 0) / 2,
        "best in 5 h": (1 + 0.5) / 2,
        "best": 1.0,
        "last": (0.5 + 1) / 2,
        "mean": 0.5,
    }


def test_intervals_cover_what_resampling_can_give():
    """One seed of n questions, of which a share p is right: the draws' deviation is sqrt(p (1 - p) / n)."""
    values = np.array([[[1.0] * 30 + [0.0] * 70]])
    _, draws = tables.bootstrap(tables.Accuracies(values, np.zeros((1, 1)), [0]))
    assert draws["last"].std() == pytest.approx((0.3 * 0.7 / 100) ** 0.5, rel=0.1)
    assert draws["last"].mean() == pytest.approx(0.3, abs=0.01)


def test_seeds_are_drawn_too():
    """Two seeds, one always right and one never: their mean of two draws is 0, 1/2, 1 with shares 1/4, 1/2, 1/4."""
    values = np.array([[[1.0] * 5], [[0.0] * 5]])
    _, draws = tables.bootstrap(tables.Accuracies(values, np.zeros((2, 1)), [0, 1]))
    found, counts = np.unique(draws["last"], return_counts=True)
    assert found.tolist() == [0, 0.5, 1]
    assert (counts / counts.sum()).tolist() == pytest.approx([0.25, 0.5, 0.25], abs=0.03)


def test_differences_are_paired():
    """A method that is better by 0.1 on every question and seed is so in every draw."""
    generator = np.random.default_rng(1)
    values = generator.random((3, 1, 50))
    hours, seeds = np.zeros((3, 1)), [0, 1, 2]
    table = tables.accuracy_table(
        "x", {"A": tables.Accuracies(values, hours, seeds), "B": tables.Accuracies(values + 0.1, hours, seeds)}
    )
    assert table.rows[2][0] == "B minus A"
    assert table.rows[2][table.header.index("last")] == "+0.100 [+0.100, +0.100]"


def test_differences_are_of_the_seeds_that_both_have():
    """Seed 2 of A is left out, and B's runs come in another order."""
    hours = np.zeros((3, 1))
    a = tables.Accuracies(np.array([[[1.0, 0.0]], [[1.0, 1.0]], [[0.0, 0.0]]]), hours, [0, 1, 2])
    b = tables.Accuracies(np.array([[[1.0, 0.0]], [[1.0, 1.0]]]), hours[:2], [1, 0])
    table = tables.accuracy_table("x", {"A": a, "B": b})
    row = dict(zip(table.header, table.rows[2], strict=True))
    # 0: [1, 1] less [1, 0], 1: [1, 0] less [1, 1]; every draw of a question and a seed is within half of that.
    assert (row["method"], row["seeds"], row["last"].split(" ")[0]) == ("B minus A", "2", "+0.000")
    other = tables.Accuracies(b.values_STQ, b.hours_ST, [7, 8])
    row = tables.accuracy_table("x", {"A": a, "B": other}).rows[2]
    assert row[1] == "unpaired" and row[-2].startswith(f"+{3 / 4 - 1 / 2:.3f} ")


def answered(folder, algorithm: str, steps: list[dict[str, list[float]]]) -> Run:
    """A run of steps of 45 minutes, validated before the first and after each: question to its answers' accuracies."""
    (folder / "heldout").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"algorithm": algorithm, "seed": 0}))
    lines = []
    for step, questions in enumerate(steps):
        mean = float(np.mean([accuracy for answers in questions.values() for accuracy in answers]))
        data = {"val-core/task/acc/mean@2": mean, **({"timing_s/step": 2700.0} if step else {})}
        lines.append(json.dumps({"step": step, "data": data}))
        answers = [
            {"input": question, "output": f"{accuracy}", "score": 0.0, "acc": accuracy, "uid": f"{question}_{number}_0"}
            for question, accuracies in questions.items()
            for number, accuracy in enumerate(accuracies)
        ]
        (folder / "heldout" / f"{step}.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return Run(folder)


def test_the_tables_of_two_runs_by_hand(tmp_path):
    """Questions in another order; one that only one run answered counts in its own answers, not in the comparison."""
    sdpo = [
        {"a": [0, 1], "b": [0, 0], "c": [1, 1]},
        {"b": [1, 1], "a": [0, 1], "c": [1, 1]},
        {"a": [1, 0], "b": [0, 1]},
    ]
    grpo = [{"b": [1, 0], "a": [0, 0]}, {"a": [0, 0], "b": [0, 0]}, {"b": [0, 0], "a": [0, 1]}]
    runs = [answered(tmp_path / name, name, steps) for name, steps in (("sdpo", sdpo), ("grpo", grpo))]
    steps, accuracy, answers = tables.tables(methods(runs))
    assert steps.rows[0][:5] == ["SDPO", "0", "0.500", "0.833", "0.500"]
    rows = {row[0]: dict(zip(accuracy.header, row, strict=True)) for row in accuracy.rows}
    measured = {
        name: {key: float(cell.split(" [")[0]) for key, cell in row.items() if " [" in cell}
        for name, row in rows.items()
    }
    # Curves 0.25, 0.75, 0.5 and 0.25, 0, 0.25 at 0, 0.75 and 1.5 hours.
    assert measured["SDPO"] == {
        "before": 0.25,
        "best in 1 h": 0.75,
        "best in 5 h": 0.75,
        "best": 0.75,
        "last": 0.5,
        "mean": 0.5,
    }
    assert measured["GRPO minus SDPO"] == {
        "before": 0,
        "best in 1 h": -0.5,
        "best in 5 h": -0.5,
        "best": -0.5,
        "last": -0.25,
        "mean": pytest.approx(1 / 6 - 0.5, abs=5e-4),
    }
    assert answers.rows == [
        ["SDPO", "held-out pass@2", "0.667", "1.000"],
        ["SDPO", "held-out: distinct of 2 answers", "1.333", "2.000"],
        ["GRPO", "held-out pass@2", "0.500", "0.500"],
        ["GRPO", "held-out: distinct of 2 answers", "1.500", "1.500"],
    ]


def logged(folder, seed, *curve, scores=(0.25, 0.5)) -> Run:
    """A run with a validation before training and at steps 10, 20, ..., and two training steps, of 10 and 14 s."""
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"algorithm": "sdpo", "seed": seed}))
    data = [(10 * i, {"val-core/task/acc/mean@1": value}) for i, value in enumerate(curve)]
    data += [(1 + i, {"critic/score/mean": score, "timing_s/step": 10.0 + 4 * i}) for i, score in enumerate(scores)]
    lines = [json.dumps({"step": step, "data": numbers}) for step, numbers in data]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return Run(folder)


def test_the_table_of_steps_has_every_run_and_their_mean(tmp_path):
    runs = [logged(tmp_path / "a", 3, 0.0, 0.5, 0.75), logged(tmp_path / "b", 4, 0.25, 1.0, scores=())]
    table = tables.step_table("task", {"SDPO": runs})
    assert table.header == ["method", "seed", "before", "step 10", "step 20", "training, mean", "s/step"]
    assert table.rows == [
        ["SDPO", "3", "0.000", "0.500", "0.750", "0.375", "12"],
        ["SDPO", "4", "0.250", "1.000", "", "", ""],
        ["SDPO", "mean", "0.125", "0.750", "0.750", "0.375", "12"],
    ]


def test_the_table_of_steps_shows_some_of_many(tmp_path):
    table = tables.step_table("task", {"SDPO": [logged(tmp_path / "a", 0, *[0.5] * 50)]})
    shown = [0, 70, 140, 210, 280, 350, 420, 490]
    assert table.header[2:-2] == ["before", *(f"step {step}" for step in shown[1:])]


def test_a_run_without_validation_has_a_table(tmp_path):
    """As benchmarks/quickstart.py trains."""
    (table,) = tables.tables({"SDPO": [logged(tmp_path / "a", 0)]})
    assert table.rows == [["SDPO", "0", "0.375", "12"]]


def test_training_facts_by_hand():
    group = [
        {"uid": "a", "solved": True, "response": "x", "demonstration": None},
        {"uid": "a", "solved": False, "response": "x ", "demonstration": "x"},
        {"uid": "b", "solved": False, "response": "y", "demonstration": "z"},
        {"uid": "b", "solved": False, "response": "y", "demonstration": None},
    ]
    assert tables.training_facts(group) == {
        "training pass@2": 0.5,
        "training: distinct of 2 responses": 1.5,
        "training: share equal to the demonstration": 0.5,
    }


def test_methods_are_runs_that_differ_by_their_seed(tmp_path):
    settings = [("a", "sdpo", 0, {}), ("b", "sdpo", 1, {}), ("c", "sdpo", 0, {"alpha": 1.0}), ("d", "grpo", 0, {})]
    settings.append(("e", "sdpo", 2, {"head": "eager"}))
    runs = [Run(make_run(tmp_path / n, algorithm=a, seed=s, steps=1, settings=x)) for n, a, s, x in settings]
    assert methods([*runs[:2], runs[3]]) == {"SDPO": runs[:2], "GRPO": [runs[3]]}
    # How something is computed makes no other method.
    assert methods([runs[0], runs[4]]) == {"SDPO": [runs[0], runs[4]]}
    assert methods(runs[:3]) == {"SDPO, alpha=None": runs[:2], "SDPO, alpha=1.0": [runs[2]]}


def test_a_run_may_name_its_method(tmp_path):
    folders = [make_run(tmp_path / name, steps=1) for name in "abc"]
    runs = [Run(folders[0], "ema"), Run(folders[1]), Run(folders[2], "ema")]
    assert methods(runs) == {"ema": [runs[0], runs[2]], "SDPO": [runs[1]]}


def test_another_model_or_other_data_make_another_method(tmp_path):
    def run(name: str, model: str, source: str = "task") -> Run:
        folder = make_run(tmp_path / name, steps=1)
        config = folder / "hydra" / ".hydra" / "config.yaml"
        content = yaml.safe_load(config.read_text())
        content["actor_rollout_ref"]["model"] = {"path": model}
        config.write_text(yaml.safe_dump(content))
        metrics = folder / "metrics.jsonl"
        metrics.write_text(metrics.read_text().replace("val-core/task/", f"val-core/{source}/"))
        return Run(folder)

    small, large, moved = run("a", "Qwen/Qwen3-0.6B"), run("b", "Qwen/Qwen3-4B"), run("c", "/models/Qwen/Qwen3-0.6B")
    assert methods([small, large, moved]) == {
        "SDPO, path=Qwen/Qwen3-0.6B": [small, moved],
        "SDPO, path=Qwen/Qwen3-4B": [large],
    }
    # A configuration may take its task from the environment.
    other = run("d", "Qwen/Qwen3-0.6B", source="another")
    assert methods([small, other]) == {"SDPO, validation=task": [small], "SDPO, validation=another": [other]}


def test_a_run_in_progress_and_one_with_restarts(tmp_path):
    run = make_run(tmp_path / "run", steps=2)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "da')
    assert max(Run(run).metrics) == 2
    assert Run(run).hours == {0: 0.0, 1: 0.5, 2: 1.0}
    (run / "metrics.jsonl").rename(run / "metrics-1.jsonl")
    (run / "metrics-2.jsonl").write_text(json.dumps({"step": 2, "data": {"critic/score/mean": 0.125}}) + "\n")
    assert Run(run).series("critic/score/mean")[2] == 0.125


def test_curves():
    assert rolling({1: 1.0, 2: 3.0, 4: 5.0}, 2) == {1: 1.0, 2: 2.0, 4: 4.0}
    low, high, mean = band([{1: 0.0, 2: 1.0}, {1: 1.0}], "SDPO", {"color": "#000000"})
    assert (low["y"], high["y"], mean["y"]) == ([0.0, 1.0], [1.0, 1.0], [0.5, 1.0])
    assert len(band([{1: 0.0}], "one seed", {"color": "#000000"})) == 1


def test_sentences(tmp_path):
    folder = make_run(tmp_path / "run", steps=1)
    data = {
        "timing_s/step": 1.0,
        "actor/lr": 1e-6,
        "actor/grad_norm": None,
        "self_distillation/reprompt_sample_fraction": 0.0,
        "self_distillation/grader_error_fraction": 0.25,
        "val-core/task/acc/mean@2": 0.01,
    }
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 2, "data": data}) + "\n")
    (folder / "run.json").write_text(json.dumps({"algorithm": "sdpo", "seed": 0, "steps": 9}))
    (folder / "checkpoints").mkdir()
    event = {"step": 2, "signal": "x", "sentence": "step 2: it shrinks.", "action": "warn"}
    (folder / "checkpoints" / "guard.jsonl").write_text(json.dumps(event) + "\n")
    text = "\n".join(findings(Run(folder)))
    for words in (
        "Guard (warn): step 2: it shrinks.",
        "step 2 of 9",
        "actor/grad_norm was not a number in step 2.",
        "No sample had a demonstration or usable feedback in step 2",
        "In step 2 up to 25.0% (step 2) of the samples could not be graded",
        "Validation on task fell from",
    ):
        assert words in text
    assert spans([1, 2, 3, 7]) == "steps 1-3, 7"
    (sentence,) = findings(logged(tmp_path / "started", 0, 0.5, scores=()))
    assert sentence == f"No training step has finished: {tmp_path / 'started' / 'metrics.jsonl'}."
    assert findings(Run(make_run(tmp_path / "healthy", steps=2, gain=0.4))) == []


def test_the_text_has_tables_curves_and_sentences(tmp_path):
    runs = methods([Run(make_run(tmp_path / "run", steps=3, gain=0.3))])
    text = text_report(runs)
    assert "Validation accuracy: task" in text
    assert re.search(r"\| response_length/mean +\| ▁▅█ +\| 31 +\| 33 +\| tokens +\|\n", text)
    assert "Nothing wrong was noticed." in text
    assert bars([0.0, 7.0]) == "▁█"
    assert bars([1.0]) == "▁"


def test_steps_are_left_out_where_the_page_would_be_too_large(tmp_path):
    runs = methods([Run(make_run(tmp_path / "run", steps=9, groups=1, members=4, tokens=10))])
    (packed,) = pack(runs, max_tokens=4 * 40)["runs"]
    assert list(packed["steps"]) == [1, 3, 5, 9]
    assert packed["left_out"] == 5
    assert pack(runs)["runs"][0]["left_out"] == 0


def test_every_panel_that_has_data_is_drawn(tmp_path):
    made = figures(methods([Run(make_run(tmp_path / "run", steps=2))]))
    assert {figure["title"] for figure in made} < {panel.title for panel in PANELS}
    assert all(trace["y"] for figure in made for trace in figure["data"])


def test_a_response_may_hold_any_separator(tmp_path):
    """verl writes text as it is: a line separator of Unicode ends no line of the file."""
    entry = {"step": 3, "uid": "u7_2_0", "input": "q", "score": 1.0, "output": "a\u2028b\x85c\x1cd"}
    (tmp_path / "3.jsonl").write_text(2 * (json.dumps(entry, ensure_ascii=False) + "\n"))
    assert [sample["response"] for sample in read_samples(tmp_path / "3.jsonl", 1.0)] == 2 * [entry["output"]]
