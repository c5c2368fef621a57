import hashlib
import json

import numpy as np
import pytest
from datasets import Dataset

from data.records import DataError, write_array
from data.split_tasks import main as split_tasks
from data.split_tasks import order
from data.split_tests import main as split_tests

from .conftest import REPOSITORY, code_record, read_lines, record, start


@pytest.fixture
def code_tasks(tmp_path):
    """Four code tasks with 1, 2, 5 and 40 tests."""
    path = tmp_path / "lcb_v6.json"
    write_array(path, (code_record(idx, count) for idx, count in enumerate([1, 2, 5, 40])))
    return path


@pytest.mark.parametrize("count", [2, 3, 10, 131, 999])
@pytest.mark.parametrize(("ratio", "seed"), [(0.1, 42), (0.5, 0), (0.33, 7)])
def test_the_order_is_that_of_datasets(count, ratio, seed):
    split = Dataset.from_dict({"idx": range(count)}).train_test_split(ratio, seed=seed)
    train, test = order(count, ratio, seed)
    assert (train.tolist(), test.tolist()) == (split["train"]["idx"], split["test"]["idx"])


def test_the_order_is_pinned():
    """Derived once with numpy 2.3; equal on every machine, else published splits would not come out."""
    train, test = order(10, 0.3, 42)
    assert (train.tolist(), test.tolist()) == ([7, 3, 2, 4, 9, 1, 8], [5, 6, 0])


@pytest.mark.parametrize(
    ("tasks", "first_of_train", "first_of_test", "digest"),
    [
        (500, [489, 454, 164], [473, 132, 472], "9aac2c60bd8da0db"),
        (2100, [743, 608, 2026], [1522, 1033, 1476], "f7fde76f21c92923"),
        (935, [707, 147, 594], [273, 829, 2], "43cc8f2dbc921026"),
    ],
    ids=["biology", "chemistry", "material"],
)
def test_the_order_is_that_of_the_published_files(tasks, first_of_train, first_of_test, digest):
    """The numbers `idx` of the published train.json and test.json: the first three of each, and a digest of all."""
    train, test = (side.tolist() for side in order(tasks, 0.1, 42))
    assert (train[:3], test[:3]) == (first_of_train, first_of_test)
    assert hashlib.sha256(json.dumps([train, test]).encode()).hexdigest()[:16] == digest


@pytest.mark.parametrize("domain", ["biology", "chemistry", "material"])
def test_the_published_splits_come_out(shared, tmp_path, domain):
    published = {side: read_lines(shared / "sciknoweval" / domain / f"{side}.json") for side in ("train", "test")}
    everything = sorted(published["train"] + published["test"], key=lambda task: task["idx"])
    write_array(tmp_path / "all.json", everything)
    split_tasks(["--json-path", str(tmp_path / "all.json"), "--output-dir", str(tmp_path / "out")])
    for side, tasks in published.items():
        assert read_lines(tmp_path / "out" / f"{side}.json") == tasks


@pytest.mark.parametrize("ratio", ["0", "1", "1.5", "-0.1"])
def test_a_ratio_that_empties_a_side_is_refused(tmp_path, ratio):
    write_array(tmp_path / "x.json", [record(idx=idx) for idx in range(4)])
    with pytest.raises(DataError, match="must be between 0 and 1"):
        split_tasks(["--json-path", str(tmp_path / "x.json"), "--output-dir", str(tmp_path), "--test-ratio", ratio])
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_train_keeps_half_of_the_tests_and_test_all(tmp_path, code_tasks):
    split_tests(["--json-path", str(code_tasks), "--output-dir", str(tmp_path / "out")])
    train, test = (read_lines(tmp_path / "out" / f"{side}.json") for side in ("train", "test"))
    assert test == json.loads(code_tasks.read_text())
    for kept, whole, count in zip(train, test, [1, 1, 2, 20], strict=True):
        some, all_ = json.loads(kept["tests"]), json.loads(whole["tests"])
        numbers = [all_["inputs"].index(text) for text in some["inputs"]]
        assert len(set(numbers)) == count and numbers == sorted(numbers)
        assert some["outputs"] == [all_["outputs"][number] for number in numbers]
        assert kept | {"tests": 0} == whole | {"tests": 0}
        assert some | {"inputs": 0, "outputs": 0} == all_ | {"inputs": 0, "outputs": 0}
    np.random.seed(0)
    wanted = [sorted(np.random.choice(count, max(1, count // 2), replace=False).tolist()) for count in (1, 2, 5, 40)]
    assert [[int(text[3:]) for text in json.loads(task["tests"])["inputs"]] for task in train] == wanted


@pytest.mark.parametrize(
    "tests", ["-", "{}", '{"inputs": [], "outputs": []}', '{"inputs": ["1"], "outputs": []}', None]
)
def test_tasks_without_tests_cannot_be_split(tmp_path, tests):
    write_array(tmp_path / "x.json", [code_record(0, 2), code_record(1, 2) | {"tests": tests}])
    with pytest.raises(DataError, match=r"x\.json:3: not a code task"):
        split_tests(["--json-path", str(tmp_path / "x.json"), "--output-dir", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def prepare(*arguments, cwd, **environment):
    return start("bash", REPOSITORY / "data/prepare_data_splits.sh", *arguments, cwd=cwd, **environment)


def test_prepare_makes_the_splits_and_a_folder_per_task(tmp_path, code_tasks):
    done = prepare(
        *("datasets/lcb_v6.json",),
        cwd=_with_datasets_folder(tmp_path, code_tasks),
        MY_DATA_SPLITS_DIR="lcb_v6",
        MY_DATA_SINGLES_DIR="lcb_v6_singles",
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "lcb_v6_singles").iterdir()) == ["q_0", "q_1", "q_2", "q_3"]
    train = read_lines(tmp_path / "lcb_v6" / "train.json")
    for number in range(4):
        folder = tmp_path / "lcb_v6_singles" / f"q_{number}"
        assert read_lines(folder / "train.json") == [train[number]] * 4
        assert [task["idx"] for task in read_lines(folder / "test.json")] == [number]
        assert (folder / "train.parquet").is_file() and (folder / "test.parquet").is_file()
    assert (tmp_path / "lcb_v6" / "train.parquet").is_file()


def _with_datasets_folder(folder, code_tasks):
    """A folder called `datasets` in the working directory must not be taken for the package."""
    (folder / "datasets").mkdir()
    code_tasks.rename(folder / "datasets" / "lcb_v6.json")
    return folder


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["--help"], ["missing.json"]])
def test_prepare_explains_itself_on_wrong_arguments(tmp_path, arguments):
    done = prepare(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and "usage: " in done.stderr
    assert not list(tmp_path.iterdir())


def test_prepare_stops_at_the_first_failure(tmp_path):
    (tmp_path / "bad.json").write_text('[{"idx": 0, "tests": "-"}]')
    done = prepare("bad.json", cwd=tmp_path)
    assert done.returncode == 1 and "bad.json:1: not a code task" in done.stderr
    assert not list(tmp_path.rglob("*.parquet")) and not list(tmp_path.rglob("train.json"))
