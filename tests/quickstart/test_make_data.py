import datasets
import pytest

from experiments.quickstart.environment import ENVIRONMENTS, data_source
from experiments.quickstart.make_data import write_data


@pytest.mark.parametrize("task", ENVIRONMENTS)
def test_files_have_the_columns_that_verl_reads(task, tmp_path):
    write_data(tmp_path, task, {"train": 20, "heldout": 10}, seed=0)
    assert sorted(path.name for path in (tmp_path / task).iterdir()) == ["test.parquet", "train.parquet"]
    rows = datasets.Dataset.from_parquet(str(tmp_path / task / "test.parquet"), cache_dir=str(tmp_path / "cache"))
    assert len(rows) == 10
    assert set(rows["data_source"]) == {data_source(task)}
    assert set(rows.column_names) == {"data_source", "prompt", "ability", "reward_model", "extra_info"}
    assert rows[3]["extra_info"] == {"index": 3, "split": "heldout"}
    assert [message["role"] for message in rows[3]["prompt"]] == ["user"]
