"""The only place that registers things with verl and Hydra (entry point group `verl.plugins`).

verl imports this module at the end of `import verl`, in every process, Ray workers included. So it stays light: what
needs more of verl waits in a post-import hook until that part of verl is imported anyway. verl swallows exceptions
here at DEBUG level; `tests/sdpo/test_plugin.py` proves in a fresh process that everything is registered.
"""

import contextlib
import functools
import inspect
import io
import logging
from pathlib import Path
from typing import Any

import wrapt
from omegaconf import DictConfig, OmegaConf

import verl
from verl.sdpo import SUPPORTED_VERL, on_cpu
from verl.sdpo.config import LOSS_MODE, TRAINER_MODE, defaults, longest_sample

CONFIG_DIR = Path(__file__).parents[1] / "trainer" / "config"

logger = logging.getLogger(__name__)


def machine() -> str:
    """Resolver `sdpo.machine` of `paper.yaml`: the file of `machine/` that describes the platform of this process."""
    return "cpu" if on_cpu() else "gpu"


def trainer_mode(loss_mode: str) -> str:
    """Resolver `sdpo.trainer_mode` of `sdpo.yaml`: loss_mode is the one switch, any other mode gets verl's trainer."""
    return TRAINER_MODE if loss_mode == LOSS_MODE else "sync"


def steps(budget: int, rollouts: int) -> int:
    """Resolver `sdpo.steps` of `sdpo_ttt.yaml`: training steps that make at least `budget` attempts."""
    return -(-budget // rollouts)


def refill(rounds: int, value: Any) -> Any:
    """Resolver `sdpo.refill` of `sdpo.yaml`: what the refilling sampler needs, or nothing where there is none."""
    return value if rounds else None


def run_name(*, _root_: DictConfig) -> str:
    """Resolver `sdpo.run_name` of `user.yaml`: verl continues whatever is saved under a run's name, so that two
    algorithms, tasks, models or seeds must not share one. Without slashes, as verl's file logger makes no folders.
    """
    loss_mode = _root_.actor_rollout_ref.actor.policy_loss.loss_mode
    algorithm = loss_mode if loss_mode == LOSS_MODE else _root_.algorithm.adv_estimator
    task = str(_root_.vars.task).strip("/").replace("/", "-")
    return f"{algorithm}-{task}-{Path(_root_.actor_rollout_ref.model.path).name}-seed{_root_.vars.seed}"


def register_with_hydra(_module) -> None:
    """Let `--config-name sdpo` be found from any folder, and give Hydra the dataclass's defaults.

    Hydra's own plugin discovery (`hydra_plugins`) does not see editable installs.
    """
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    class SDPOSearchPathPlugin(SearchPathPlugin):
        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            search_path.append(provider="sdpo", path=f"file://{CONFIG_DIR}")

    Plugins.instance().register(SDPOSearchPathPlugin)
    block = {"_target_": "verl.sdpo.config.SelfDistillationConfig", **defaults()}
    ConfigStore.instance().store(group="sdpo", name="self_distillation", node=block, provider="sdpo")


def validate_before_ray(module) -> None:
    """Run SDPO's checks where `main_ppo` runs verl's, so that a mistake costs seconds and not a Ray start.

    A patch, because verl calls no hook between composing the configuration and starting Ray.
    """
    verl_validate_config = module.validate_config

    @functools.wraps(verl_validate_config)
    def validate_config(config, *args, **kwargs):
        from verl.sdpo.preflight.validation import validate

        validate(config)
        return verl_validate_config(config, *args, **kwargs)

    module.validate_config = validate_config


def validate_without_ray(config: DictConfig) -> None:
    """Run the checks of `verl.trainer.main_ppo`, SDPO's and verl's, for a program that starts no training.

    Data may be missing: such programs report that themselves.

    Raises:
        Exception: of any kind, as verl checks with assertions and in its dataclasses.
    """
    from verl.sdpo.preflight.validation import validate
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    validate(config, data_may_be_missing=True)
    with contextlib.redirect_stdout(io.StringIO()):
        # Without the wrapper of `validate_before_ray`.
        inspect.unwrap(validate_config)(config, need_reference_policy(config), need_critic(config))


def register_policy_loss(module) -> None:
    """Tell users of a trainer that bypasses `validate_config` what is wrong, instead of "unsupported loss mode"."""

    @module.register_policy_loss(LOSS_MODE)
    def sdpo_needs_its_trainer(*args, **kwargs):
        raise RuntimeError(
            f"loss_mode={LOSS_MODE} is computed by SDPO's own engine, not by a policy loss. Start with "
            f"--config-name sdpo, or set trainer.v1.trainer_mode={TRAINER_MODE}."
        )


def register_trainers(_module) -> None:
    import verl.sdpo.test_time.ttt_trainer  # noqa: F401  registers on import, with the trainer that it extends


def register_agent_loop(_module) -> None:
    import verl.sdpo.trainer.rollout  # noqa: F401  registers on import


def load() -> None:
    OmegaConf.register_new_resolver("sdpo.machine", machine, replace=True)
    OmegaConf.register_new_resolver("sdpo.trainer_mode", trainer_mode, replace=True)
    OmegaConf.register_new_resolver("sdpo.steps", steps, replace=True)
    OmegaConf.register_new_resolver("sdpo.refill", refill, replace=True)
    OmegaConf.register_new_resolver("sdpo.longest_sample", longest_sample, replace=True)
    OmegaConf.register_new_resolver("sdpo.run_name", run_name, replace=True)
    wrapt.register_post_import_hook(register_with_hydra, "hydra")
    wrapt.register_post_import_hook(validate_before_ray, "verl.utils.config")
    wrapt.register_post_import_hook(register_policy_loss, "verl.trainer.ppo.core_algos")
    wrapt.register_post_import_hook(register_trainers, "verl.trainer.ppo.v1")
    wrapt.register_post_import_hook(register_agent_loop, "verl.experimental.agent_loop")
    if on_cpu():
        from verl.sdpo.cpu import register

        register()


if verl.__version__ == SUPPORTED_VERL:
    load()
else:
    logger.error("sdpo needs verl==%s, found %s: the plugin is not loaded.", SUPPORTED_VERL, verl.__version__)
