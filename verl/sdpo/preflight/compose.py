"""The configuration that `verl.trainer.main_ppo` would run with."""

import argparse

from verl.sdpo.checks import describe


def compose(args: argparse.Namespace):
    """The configuration that `verl.trainer.main_ppo` would run with, resolved.

    Raises:
        ValueError: there is no such configuration, or an override or a reference in it is wrong.
    """
    import yaml
    from hydra import compose, initialize_config_dir, initialize_config_module
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    stock = "verl.trainer.config"
    try:
        if args.config_dir:
            # Hydra takes the main configuration from the folder that it starts with only.
            with initialize_config_dir(str(args.config_dir.absolute()), version_base=None):
                config = compose(args.config_name, [f"hydra.searchpath=[pkg://{stock}]", *args.overrides])
        else:
            with initialize_config_module(stock, version_base=None):
                config = compose(args.config_name, args.overrides)
        OmegaConf.resolve(config)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ValueError(describe(error)) from error
    return config
