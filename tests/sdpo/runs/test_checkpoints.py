"""Crash-safe checkpoints: a start takes the newest complete one, and old ones are deleted."""

import pytest

from verl.sdpo.runs import checkpoints
from verl.sdpo.runs.checkpoints import MANIFEST, TRACKER


def save(folder, step: int, *, with_manifest: bool = True) -> None:
    actor = folder / f"global_step_{step}" / "actor"
    actor.mkdir(parents=True)
    (actor / "model.pt").write_bytes(b"weights")
    (folder / f"global_step_{step}" / "data.pt").write_bytes(b"order")
    if with_manifest:
        checkpoints.write_manifest(folder / f"global_step_{step}")
    checkpoints.commit(folder, step)


def choose(folder, resume_mode: str = "auto") -> str:
    checkpoints.choose_complete({"default_local_dir": str(folder), "resume_mode": resume_mode})
    return (folder / TRACKER).read_text()


def kept(folder) -> list[str]:
    return sorted(path.name for path in folder.glob("global_step_*"))


def cut(folder, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:-1])


def test_a_complete_checkpoint_is_taken(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2)
    assert choose(tmp_path) == "2"


@pytest.mark.parametrize("name", ["actor/model.pt", "data.pt", MANIFEST])
def test_an_incomplete_one_is_passed_over(tmp_path, caplog, name):
    for step in (1, 2, 3):
        save(tmp_path, step)
    cut(tmp_path / "global_step_3", name)
    assert choose(tmp_path) == "2"
    assert "global_step_3 is incomplete: " in caplog.text
    assert "The run goes on from global_step_2, the newest complete checkpoint." in caplog.text


def test_a_missing_file_is_noticed_and_so_is_a_second_incomplete_one(tmp_path, caplog):
    for step in (1, 2, 3):
        save(tmp_path, step)
    (tmp_path / "global_step_3" / "data.pt").unlink()
    cut(tmp_path / "global_step_2", "data.pt")
    assert choose(tmp_path) == "1"
    assert "data.pt is missing" in caplog.text


def test_one_that_was_never_committed_is_no_way_forward(tmp_path):
    """Step 3 was saved, but not logged."""
    save(tmp_path, 2)
    save(tmp_path, 3)
    checkpoints.commit(tmp_path, 2)
    assert choose(tmp_path) == "2"


def test_without_another_the_start_is_refused(tmp_path):
    save(tmp_path, 25)
    cut(tmp_path / "global_step_25", "data.pt")
    with pytest.raises(ValueError, match=r"global_step_25 is incomplete: data.pt has 4 of 5 bytes. There is no other"):
        choose(tmp_path)


@pytest.mark.parametrize("text", ["", "garbage"])
def test_a_tracker_that_names_nothing(tmp_path, text):
    save(tmp_path, 1)
    save(tmp_path, 2)
    (tmp_path / TRACKER).write_text(text)
    assert choose(tmp_path) == "2"


def test_a_checkpoint_without_a_manifest_counts_as_complete(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2, with_manifest=False)
    assert choose(tmp_path) == "2"


def test_checkpoints_that_were_deleted_are_verls_business(tmp_path):
    checkpoints.commit(tmp_path, 4)
    assert choose(tmp_path) == "4"


def test_only_where_verl_would_resume_by_itself(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2)
    cut(tmp_path / "global_step_2", "data.pt")
    assert choose(tmp_path, "disable") == "2"


@pytest.mark.parametrize(("keep", "left"), [(1, [9]), (2, [2, 9]), (3, [1, 2, 9]), (4, [1, 2, 9]), (None, [1, 2, 9])])
def test_the_newest_are_kept_however_often_the_run_was_started(tmp_path, keep, left):
    for step in (1, 2, 9):
        save(tmp_path, step)
    save(tmp_path, 11)
    checkpoints.delete_old(tmp_path, 9, keep)
    assert kept(tmp_path) == sorted(f"global_step_{step}" for step in [*left, 11])


def test_looking_changes_nothing(tmp_path):
    """As the doctor looks, which comes before a training."""
    save(tmp_path, 1)
    save(tmp_path, 2)
    cut(tmp_path / "global_step_2", "data.pt")
    step, sentence = checkpoints.newest_complete({"default_local_dir": str(tmp_path), "resume_mode": "auto"})
    assert step == 1
    assert sentence and "global_step_2 is incomplete" in sentence
    assert (tmp_path / TRACKER).read_text() == "2"
