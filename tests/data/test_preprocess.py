import json
import sys

import pyarrow.parquet as pq
import pytest

from data import preprocess
from data.preprocess import SCHEMA, main, to_row
from data.records import DataError, write_array, write_lines

from .conftest import REPOSITORY, code_record, record, start


def fill(folder, train, test, write=write_lines):
    folder.mkdir(exist_ok=True)
    write(folder / "train.json", train)
    write(folder / "test.json", test)
    return folder


def rows(folder, split):
    return pq.read_table(folder / f"{split}.parquet").to_pylist()


@pytest.mark.parametrize("write", [write_array, write_lines])
def test_a_multiple_choice_row(tmp_path, write):
    fill(tmp_path, [record(system="Format.", idx=7)], [record(prompt="Other?")], write)
    main(["--data-source", str(tmp_path)])
    assert rows(tmp_path, "train") == [
        {
            "data_source": "sciknoweval",
            "prompt": [{"role": "system", "content": "Format."}, {"role": "user", "content": "Which?"}],
            "ability": "mcq",
            "reward_model": {"style": "mcq", "ground_truth": "A"},
            "extra_info": {
                "split": "train",
                "index": "7",
                "description": "Which?",
                "problem": "Which?",
                "elo": 1500,
                "public_tests": None,
            },
        }
    ]
    assert rows(tmp_path, "test")[0]["extra_info"]["split"] == "test"


def test_a_code_row_is_graded_by_its_tests_and_keeps_the_public_ones():
    task = code_record(3, 2)
    row = to_row(task, "test")
    assert row["reward_model"] == {"style": "code", "ground_truth": task["tests"]}
    assert row["extra_info"]["public_tests"] == task["public_tests"] != task["tests"]
    assert row["prompt"] == [{"role": "user", "content": "Solve 3"}]


@pytest.mark.parametrize(("elo", "wanted"), [(1500, 1500), ("-", None), (None, None), ("1800", 1800), (2.0, 2)])
def test_elo_is_a_number_or_nothing(elo, wanted):
    assert to_row(record(elo=elo), "train")["extra_info"]["elo"] == wanted


def test_every_file_has_the_same_schema_and_small_compressed_row_groups(tmp_path):
    fill(tmp_path, [record(idx=idx, prompt=f"{idx}?") for idx in range(70)], [code_record(0, 1)])
    main(["--data-source", str(tmp_path)])
    for split in ("train", "test"):
        assert pq.read_schema(tmp_path / f"{split}.parquet").remove_metadata() == SCHEMA
    metadata = pq.read_metadata(tmp_path / "train.parquet")
    assert [metadata.row_group(group).num_rows for group in range(3)] == [32, 32, 6]
    assert metadata.row_group(0).column(0).compression == "ZSTD"


def test_large_rows_make_small_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(preprocess, "GROUP_CHARACTERS", 100)
    fill(tmp_path, [record(idx=idx, prompt=f"{idx}" * 60) for idx in range(4)], [record()])
    main(["--data-source", str(tmp_path)])
    assert pq.read_metadata(tmp_path / "train.parquet").num_row_groups == 2


@pytest.mark.parametrize("drop", [False, True])
def test_a_prompt_in_both_splits_is_reported_with_both_ids(tmp_path, capsys, drop):
    fill(tmp_path, [record(idx=1), record(idx=2, prompt="Same?")], [record(idx=3, prompt="Same?")])
    main(["--data-source", str(tmp_path)] + ["--drop-leaks"] * drop)
    assert "the prompt of train task 2 is also that of test task 3" in capsys.readouterr().out
    assert [row["extra_info"]["index"] for row in rows(tmp_path, "train")] == (["1"] if drop else ["1", "2"])


def test_the_leak_of_the_material_set_is_found(shared, tmp_path, capsys):
    for split in ("train", "test"):
        (tmp_path / f"{split}.json").symlink_to(shared / "sciknoweval" / "material" / f"{split}.json")
    main(["--data-source", str(tmp_path), "--drop-leaks"])
    printed = capsys.readouterr().out
    train_id, test_id = (printed.split(f" {side} task ")[1].split()[0] for side in ("train", "test"))
    prompts = {}
    for split in ("train", "test"):
        tasks = [json.loads(line) for line in (tmp_path / f"{split}.json").read_text().splitlines()]
        prompts |= {str(task["idx"]): task["prompt"] for task in tasks}
    assert train_id != test_id and prompts[train_id] == prompts[test_id]
    assert "840 train and 94 test rows" in printed and printed.count("dropped") == 1


def test_the_same_code_task_in_both_splits_is_no_leak(tmp_path, capsys):
    fill(tmp_path, [code_record(0, 1)] * 4, [code_record(0, 2)])
    main(["--data-source", str(tmp_path), "--drop-leaks"])
    assert "also that of" not in capsys.readouterr().out and len(rows(tmp_path, "train")) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": ""}, "field 'prompt' must be text that is not empty, got ''"),
        ({"kind": None}, "field 'kind' must be text that is not empty, got None"),
        ({"answer": "-"}, "field 'answer' must be text that is not empty, got '-'"),
        ({"answer": 3}, "field 'answer' must be text that is not empty, got 3"),
        ({"kind": "code"}, "field 'tests' must be text that is not empty, got '-'"),
        (
            {"kind": "code", "tests": "[1"},
            "field 'tests' is not a JSON object with inputs and outputs: JSONDecodeError",
        ),
        ({"kind": "code", "tests": "[1]"}, "field 'tests' is not a JSON object with inputs and outputs: TypeError"),
        ({"kind": "code", "tests": '{"inputs": ["1"]}'}, "field 'tests' is not a JSON object with inputs and outputs"),
        ({"kind": "code", "tests": '{"inputs": ["1"], "outputs": []}'}, "field 'tests' must have as many outputs"),
        ({"kind": "code", "tests": '{"inputs": [], "outputs": []}'}, "field 'tests' must have as many outputs"),
        ({"elo": "high"}, "field 'elo' must be a number, got 'high'"),
        ({"elo": "inf"}, "field 'elo' must be a number, got 'inf'"),
        ({"elo": float("-inf")}, "field 'elo' must be a number, got -inf"),
        ({"elo": "nan"}, "field 'elo' must be a number, got 'nan'"),
        ({"system": 3}, "field 'system' must be text or null, got 3"),
    ],
)
def test_a_malformed_record_is_named_with_file_and_line_and_nothing_is_written(tmp_path, change, message):
    fill(tmp_path, [record(), record(idx=1) | change], [record(prompt="Other?")])
    with pytest.raises(DataError) as error:
        main(["--data-source", str(tmp_path)])
    assert str(error.value).startswith(f"{tmp_path / 'train.json'}:2: {message}")
    assert not list(tmp_path.glob("*.parquet*"))


def test_a_missing_field_is_named(tmp_path):
    broken = record()
    del broken["idx"]
    fill(tmp_path, [broken], [record()])
    with pytest.raises(DataError, match=r"train\.json:1: field 'idx' is missing"):
        main(["--data-source", str(tmp_path)])


def test_an_empty_side_is_refused(tmp_path):
    fill(tmp_path, [record()], [record(idx=1)])
    with pytest.raises(DataError, match=r"train\.json leaves no record"):
        main(["--data-source", str(tmp_path), "--drop-leaks"])
    assert not list(tmp_path.glob("*.parquet*"))


MEASURE = """
import resource, runpy, sys
sys.argv = ["preprocess.py", "--data-source", sys.argv[2]]
sys.path.insert(0, {root!r})
runpy.run_module("data.preprocess", run_name="__main__")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_mebibytes(folder) -> float:
    """Peak memory of preprocessing `folder`, in a process of its own."""
    done = start(sys.executable, "-c", MEASURE.format(root=str(REPOSITORY)), "-", folder, cwd=folder)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1]) / 1024


@pytest.mark.parametrize("write", [write_array, write_lines])
def test_memory_does_not_grow_with_the_file(tmp_path, write):
    task = code_record(0, 1)
    task["tests"] = json.dumps(json.loads(task["tests"]) | {"inputs": ["7 " * 100_000], "outputs": ["7"]})
    # Files of 8 and 80 MB; with the whole file in memory the second would need 72 MB more.
    small = fill(tmp_path / "small", [task] * 40, [record()], write)
    large = fill(tmp_path / "large", (task for _ in range(400)), [record()], write)
    assert (large / "train.json").stat().st_size > 80e6
    assert peak_mebibytes(large) - peak_mebibytes(small) < 30
