"""The platform class through which verl reaches the device."""

import ctypes
import resource
from contextlib import contextmanager
from typing import Any

import torch

from verl.plugin.platform import PlatformBase


class CPUDeviceModule:
    """`torch.cpu` with the functions of `torch.cuda` that verl calls besides."""

    def __getattr__(self, name: str):
        return getattr(torch.cpu, name)

    def max_memory_allocated(self, *_args) -> int:
        """Peak resident memory of this process, in bytes."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    max_memory_reserved = memory_allocated = memory_reserved = max_memory_allocated

    def mem_get_info(self, *_args) -> tuple[int, int]:
        import psutil

        memory = psutil.virtual_memory()
        return memory.available, memory.total

    def get_device_name(self, *_args) -> str:
        return "cpu"

    def get_rng_state(self, *_args) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, *_args) -> None:
        torch.set_rng_state(state)

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def empty_cache(self) -> None:
        """Return freed memory to the system; glibc otherwise keeps what lies between living allocations."""
        ctypes.CDLL(None).malloc_trim(0)

    def ipc_collect(self) -> None:
        pass

    reset_peak_memory_stats = ipc_collect


class PlatformCPU(PlatformBase):
    """A machine without an accelerator. Ray schedules by a logical GPU that `machine/cpu.yaml` gives its node."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module: Any = CPUDeviceModule()

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check=False) -> bool:
        # Never detected, only chosen by VERL_PLATFORM=cpu.
        return False

    def current_device(self) -> torch.device:  # type: ignore[override]
        """A device, not an index: verl moves tensors with `.to(current_device())`, and `.to(0)` means the GPU."""
        return torch.device("cpu")

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index) -> None:
        pass

    def synchronize(self, device_index=None) -> None:
        pass

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def set_allocator_settings(self, settings: str) -> None:
        pass

    def empty_cache(self) -> None:
        self.device_module.empty_cache()

    def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str):
        yield

    def profiler_start(self) -> None:
        pass

    def profiler_stop(self) -> None:
        pass

    def ray_resource_name(self) -> str:
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        """False: weights reach vLLM through shared memory instead of CUDA IPC."""
        return False

    def cudart(self) -> None:
        return None
