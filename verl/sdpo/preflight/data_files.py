"""Checks of the data that can be made before Ray starts: the files are there, are text, and can be graded."""

from collections.abc import Mapping
from glob import glob
from pathlib import Path

import pyarrow.parquet as pq

from verl.sdpo.config import is_sdpo

REWARD_FUNCTION = "pkg://verl.utils.reward_score.feedback"


def local_files(data: Mapping, *keys: str) -> list[Path]:
    """The files of `data.train_files`, `data.val_files`, ... that are not to be fetched from elsewhere.

    Patterns are expanded, as `datasets` does for verl; one without a match stands for itself.
    """
    names = [name for key in keys for name in ([data[key]] if isinstance(data[key], str) else data[key] or [])]
    paths = [str(Path(name).expanduser()) for name in names if "://" not in name]
    return [Path(file) for path in paths for file in sorted(glob(path, recursive=True)) or [path]]


def check_files(config: Mapping) -> None:
    """Check that the data of a training of ours (SDPO, or any with `user.yaml`) is there.

    Raises:
        ValueError: naming the missing file, and the setting of `user.yaml` that leads to it.
    """
    data = config["data"]
    # A dataset class of the user's own may read anything.
    if data["custom_cls"]["path"] or not (is_sdpo(config) or "vars" in config):
        return
    for key in ("train_files", "val_files"):
        for file in local_files(data, key):
            if not file.is_file():
                raise ValueError(
                    f"data.{key}: there is no {file}. With user.yaml that is vars.dir (SDPO_DIR) / vars.task (TASK); "
                    "data/README.md says how to make the files."
                )


def check_text_only(config: Mapping) -> None:
    """Refuse parquet files with image, video or audio columns; `check_files` reports missing ones."""
    data = config["data"]
    media = {data[key] for key in ("image_key", "video_key", "audio_key") if data.get(key) is not None}
    for file in local_files(data, "train_files"):
        if file.suffix == ".parquet" and file.is_file():
            found = media & set(pq.read_schema(file).names)
            if found:
                raise ValueError(
                    f"data.train_files: {file} has the multi-modal columns {sorted(found)}; SDPO supports text only. "
                    "Drop them, or point data.image_key / data.video_key at columns that do not exist."
                )


def check_rewards(config: Mapping) -> None:
    """Find out whether every `data_source` of the data has a grader, and whether programs can be confined here.

    Args:
        config: the Hydra tree that `verl.trainer.main_ppo` composed.

    Raises:
        ValueError: a data source without a grader, or an unknown grader option.
        SandboxUnavailable: the data holds code, and this machine cannot confine it as asked.
    """
    reward = config["reward"]["custom_reward_function"]
    path, options = reward["path"], reward.get("reward_kwargs") or {}
    # A reward function that calls another names it (verl/sdpo/test_time/grading.py).
    if "grader" in options:
        path, options = options["grader"], options["options"]
    if path != REWARD_FUNCTION:
        return
    from verl.utils.reward_score.feedback import check_data_sources

    names = set()
    for file in local_files(config["data"], "train_files", "val_files"):
        if file.suffix == ".parquet" and file.is_file():
            if "data_source" not in pq.read_schema(file).names:
                raise ValueError(
                    f"{file} has no column data_source, which says who grades a row. Make it with "
                    "data/preprocess.py, or add the column (docs/training.md)."
                )
            names.update(pq.read_table(file, columns=["data_source"])["data_source"].unique().to_pylist())
    check_data_sources(names, **options)
