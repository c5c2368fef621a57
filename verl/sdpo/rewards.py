"""Checks of the rewards that can be made before Ray starts, when the reward function is this project's."""

from collections.abc import Mapping

import pyarrow.parquet as pq

from verl.sdpo.config import local_files
from verl.utils.reward_score.feedback import check_data_sources

REWARD_FUNCTION = "pkg://verl.utils.reward_score.feedback"
# Test-time SDPO's, which calls another one for the public and for the hidden tests.
CONFIRMING = "pkg://verl.sdpo.test_time.grading"


def validate_rewards(config: Mapping) -> None:
    """Find out whether every `data_source` of the data has a grader, and whether programs can be confined here.

    Args:
        config: the Hydra tree that `verl.trainer.main_ppo` composed.

    Raises:
        ValueError: a data source without a grader, or an unknown grader option.
        SandboxUnavailable: the data holds code, and this machine cannot confine it as asked.
    """
    reward = config["reward"]["custom_reward_function"]
    path, options = reward["path"], reward.get("reward_kwargs") or {}
    if path == CONFIRMING:
        path, options = options["grader"], options["options"]
    if path != REWARD_FUNCTION:
        return
    names = set()
    for file in local_files(config["data"], "train_files", "val_files"):
        if file.suffix == ".parquet" and file.is_file():
            names.update(pq.read_table(file, columns=["data_source"])["data_source"].unique().to_pylist())
    check_data_sources(names, **options)
