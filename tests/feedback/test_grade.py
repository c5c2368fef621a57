"""The offline command."""

import json
import subprocess
import sys

import pandas as pd
import pytest

from tests.feedback.helpers import REPO
from verl.utils.reward_score.feedback import grade


@pytest.fixture
def data(tmp_path):
    rows = [
        {"data_source": source, "reward_model": {"ground_truth": gold}, "extra_info": {"problem": ""}}
        for source, gold in (("sciknoweval", "B"), ("gsm8k", "12"))
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "data.parquet")
    return tmp_path / "data.parquet"


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["grade", *map(str, arguments)])
    grade.main()


def test_it_prints_feedback_and_a_table_and_writes_results(data, tmp_path, monkeypatch, capsys):
    lines = [
        {"response": "<answer>A</answer>"},
        {"response": r"\boxed{12.0}"},
        {"index": 0, "response": "<answer>B</answer>", "score": 0.0},
        {"index": 1, "response": "so", "truncated": True},
    ]
    responses, output = tmp_path / "responses.jsonl", tmp_path / "results.jsonl"
    responses.write_text("\n".join(map(json.dumps, lines)))
    run(monkeypatch, "--data", data, "--responses", responses, "--output", output, "--reveal", "mismatch")
    printed = capsys.readouterr().out
    assert "--- row 0: wrong_answer\nWrong Answer\nOption A is not correct.\n" in printed
    table = [line.split() for line in printed.splitlines() if not line.startswith("---")]
    assert ["responses", "score", "accepted", "wrong_answer", "truncated"] in table
    assert ["sciknoweval", "2", "0.5", "1", "1", "0"] in table
    assert ["gsm8k", "2", "0.5", "1", "0", "1"] in table
    results = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(r["index"], r["verdict"]) for r in results] == [
        (0, "wrong_answer"),
        (1, "accepted"),
        (0, "accepted"),
        (1, "truncated"),
    ]
    assert results[0]["mode"] == "script" and results[0]["python"].startswith("3.")
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".tmp"] == []


@pytest.mark.parametrize(
    "line",
    [
        "no JSON",
        "[]",
        "{}",
        '{"response": 1}',
        '{"response": "x", "index": 2}',
        '{"response": "x", "index": -1}',
        '{"response": "x", "index": 1.0}',
        '{"response": "x", "index": true}',
        '{"response": "x", "truncated": "false"}',
        '{"response": "x", "truncated": 0}',
    ],
)
def test_a_bad_line_is_named(data, tmp_path, monkeypatch, line):
    responses = tmp_path / "responses.jsonl"
    responses.write_text('{"response": "x"}\n' + line)
    with pytest.raises(ValueError, match=r"responses\.jsonl:2: (expected|not JSON)"):
        run(monkeypatch, "--data", data, "--responses", responses)


def test_unknown_data_is_refused_before_grading(tmp_path, monkeypatch):
    pd.DataFrame([{"data_source": "nope"}]).to_parquet(tmp_path / "d.parquet")
    with pytest.raises(ValueError, match="No grader for data_source 'nope'"):
        run(monkeypatch, "--data", tmp_path / "d.parquet", "--responses", tmp_path / "none.jsonl")


def test_responses_are_read_as_the_data_is(data, tmp_path, monkeypatch, capsys):
    responses = tmp_path / "responses.jsonl"
    lines = ["\ufeff" + json.dumps({"response": "one\u2028two\u0085 <answer>B</answer>"}, ensure_ascii=False), "", " "]
    lines.append(json.dumps({"response": "\\boxed{12} \u00bd"}, ensure_ascii=False))
    responses.write_text("\r\n".join(lines), encoding="utf-8", newline="")
    monkeypatch.setenv("LC_ALL", "C")
    run(monkeypatch, "--data", data, "--responses", responses)
    assert [line.split()[1:3] for line in capsys.readouterr().out.splitlines()[1:3]] == [["1", "1.0"], ["1", "1.0"]]


def test_a_bad_file_is_one_sentence_of_the_command(data, tmp_path):
    command = [sys.executable, "-m", "verl.utils.reward_score.feedback.grade", "--data", data]
    done = subprocess.run([*command, "--responses", tmp_path / "none.jsonl"], capture_output=True, text=True, cwd=REPO)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == f"error: {tmp_path}/none.jsonl does not exist."


def test_an_array_is_read_too_and_its_bad_entry_is_named(data, tmp_path, monkeypatch, capsys):
    responses = tmp_path / "responses.json"
    responses.write_text(json.dumps([{"response": "<answer>B</answer>"}]))
    run(monkeypatch, "--data", data, "--responses", responses)
    assert "accepted" in capsys.readouterr().out
    responses.write_text(json.dumps([{"response": "x"}, {"response": "x", "index": 9}]))
    with pytest.raises(ValueError, match=r"responses\.json, entry 2: expected"):
        run(monkeypatch, "--data", data, "--responses", responses)


def test_it_needs_nothing_that_the_wheel_does_not_hold():
    program = "import sys; sys.modules['data'] = None; import verl.utils.reward_score.feedback.grade"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=REPO)
    assert done.returncode == 0, done.stderr
