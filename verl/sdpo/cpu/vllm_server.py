"""verl's vLLM rollout server on vLLM's CPU build."""

import ray
import torch
from vllm import _custom_ops, ir
from vllm.model_executor.layers.activation import SiluAndMul
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod
from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler

from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer, vLLMReplica

NORMS = "cpu_cpp"


class CPUWorkerExtension(vLLMColocateWorkerExtension):
    """Runs in vLLM's worker process, before it loads the model."""

    def __new__(cls, **kwargs):
        # vLLM repacks linear weights for its CPU kernels and drops the originals, so that verl's weight sync finds no
        # parameter to load into. The embedding's method repacks alike and keeps the original, for every later sync.
        UnquantizedLinearMethod.process_weights_after_loading = UnquantizedEmbeddingMethod.process_weights_after_loading
        # vLLM's own code of one operation in the place of many small ones, which take a small model half of its time.
        # Its build for CPUs has these kernels and leaves them to other platforms; its sampler for CPUs draws noise for
        # every row, and once more for the rows with a seed.
        SiluAndMul.forward_cpu = SiluAndMul.forward_cuda
        TopKTopPSampler.forward_cpu = TopKTopPSampler.forward_native
        register_norms()
        return super().__new__(cls, **kwargs)


def register_norms() -> None:
    """vLLM's norms in C++, by the name that `machine/cpu.yaml` gives in `ir_op_priority`."""

    def fits(x: torch.Tensor, weight: torch.Tensor | None, variance_size: int | None) -> bool:
        return variance_size is None and (weight is None or weight.dtype == x.dtype) and x.is_contiguous()

    @ir.ops.rms_norm.register_impl(
        NORMS, supports_args=lambda x, weight, epsilon, variance_size=None: fits(x, weight, variance_size)
    )
    def rms_norm(
        x: torch.Tensor, weight: torch.Tensor | None, epsilon: float, variance_size: int | None = None
    ) -> torch.Tensor:
        _custom_ops.rms_norm(out := torch.empty_like(x), x, weight, epsilon)
        return out

    @ir.ops.fused_add_rms_norm.register_impl(
        NORMS,
        supports_args=lambda x, x_residual, weight, epsilon, variance_size=None: fits(x, weight, variance_size),
        inplace=True,
    )
    def fused_add_rms_norm(
        x: torch.Tensor,
        x_residual: torch.Tensor,
        weight: torch.Tensor | None,
        epsilon: float,
        variance_size: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        _custom_ops.fused_add_rms_norm(x, x_residual, weight, epsilon)
        return x, x_residual


class CPUvLLMHttpServer(vLLMHttpServer):
    def _get_worker_extension_cls(self) -> str:
        return f"{CPUWorkerExtension.__module__}.{CPUWorkerExtension.__qualname__}"


class CPUvLLMReplica(vLLMReplica):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.server_class = ray.remote(CPUvLLMHttpServer)
