"""The checks that `verl.trainer.main_ppo` makes before Ray starts, for programs that start no training."""

import contextlib
import io

from verl.sdpo.preflight.data_files import local_files


def validate(config) -> None:
    """What `verl.trainer.main_ppo` checks before Ray starts: verl's rules, and SDPO's, which the plugin adds."""
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    with contextlib.redirect_stdout(io.StringIO()):
        validate_config(without_missing_files(config), need_reference_policy(config), need_critic(config))


def without_missing_files(config):
    """The configuration without data that is not there, which has findings of its own and may be made later."""
    config = config.copy()
    for key in ("train_files", "val_files"):
        if any(not file.is_file() for file in local_files(config.data, key)):
            config.data[key] = [str(file) for file in local_files(config.data, key) if file.is_file()]
    return config
