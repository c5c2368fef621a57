"""Can this machine train? `python -m verl.sdpo.doctor [--config-name sdpo] [key=value ...]`

Takes the configuration and overrides of `verl.trainer.main_ppo`. Prints a line per check and, for each problem, what
to do about it. Exit status 1 if and only if a check failed.
"""

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from verl.sdpo.checks import describe
from verl.sdpo.doctor.data import check_data
from verl.sdpo.doctor.finding import FAIL, OK, WARN, Finding
from verl.sdpo.doctor.installation import (
    check_attention,
    check_checkout,
    check_engine,
    check_plugin,
    check_python,
    check_verl,
)
from verl.sdpo.doctor.services import check_sandbox, check_sockets, check_wandb
from verl.sdpo.preflight.chat_template import load_tokenizer
from verl.sdpo.preflight.compose import compose


def check_configuration(args: argparse.Namespace, config) -> Finding:
    from verl.sdpo.plugin import validate_without_ray

    try:
        validate_without_ray(config)
    # The border to verl's checks: assertions, and whatever its dataclasses, or Hydra that builds them, make of a value.
    except Exception as error:
        return Finding(FAIL, "configuration", f"{args.config_name}: {describe(error)}", "Correct the overrides.")
    return Finding(OK, "configuration", f"{args.config_name}, {len(args.overrides)} overrides")


def examine_machine(config, is_valid: bool) -> Iterator[Finding]:
    """Checks of this machine against the configuration."""
    from verl.sdpo.doctor.cluster import check_nodes, check_open_files, check_shared_memory
    from verl.sdpo.doctor.machine import check_capacity

    if is_valid:
        yield from check_capacity(config)
    else:
        yield Finding(WARN, "memory", "not estimated, as the configuration is wrong", "Correct that first.")
    yield from check_nodes(config.trainer)
    yield check_sockets(config)
    yield check_open_files()
    yield check_shared_memory(config)
    yield check_sandbox()
    tokenizer = load_tokenizer(config.actor_rollout_ref.model)
    for key in ("train_files", "val_files"):
        yield from check_data(config.data, key, tokenizer)
    yield from check_wandb(config.trainer.logger)


def examine(args: argparse.Namespace) -> Iterator[Finding]:
    """All checks, in the order in which a failure makes the later ones pointless."""
    yield check_python()
    yield check_verl()
    plugin = check_plugin()
    yield plugin
    if plugin.status == FAIL:
        return
    yield from check_checkout()
    try:
        config = compose(args)
    except ValueError as error:
        fix = "Correct the name or the overrides; what needs the configuration was not checked."
        yield Finding(FAIL, "configuration", f"{args.config_name}: {error}", fix)
        return
    configuration = check_configuration(args, config)
    yield configuration
    yield check_engine(config.actor_rollout_ref.rollout.name)
    yield check_attention(config.actor_rollout_ref.model)
    if not args.installation_only:
        yield from examine_machine(config, is_valid=configuration.status != FAIL)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m verl.sdpo.doctor", description=__doc__)
    parser.add_argument("--config-name", default="sdpo")
    parser.add_argument("--config-dir", type=Path, help="folder with more configurations")
    parser.add_argument("--installation-only", action="store_true", help="leave out what depends on the machine")
    parser.add_argument("--explain", metavar="KEY", help="print default, meaning and refusals of a key of SDPO")
    parser.add_argument("overrides", nargs="*", help="key=value, as for verl.trainer.main_ppo")
    return parser.parse_intermixed_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    # One screen: verl and vLLM announce on import everything that is not installed.
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if args.explain:
        from verl.sdpo.doctor.explain import explain

        try:
            print(explain(args.explain))
        except ValueError as error:
            sys.exit(f"doctor: {error}")
        return 0
    statuses = []
    for finding in examine(args):
        print(finding, flush=True)
        statuses.append(finding.status)
    failed, warned = statuses.count("FAIL"), statuses.count("WARN")
    print(f"{'Not ready' if failed else 'Ready'}: {failed} failed, {warned} to look at, of {len(statuses)} checks.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
