"""verl's vLLM rollout server on vLLM's CPU build."""

import ray
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer, vLLMReplica


class CPUWorkerExtension(vLLMColocateWorkerExtension):
    """Runs in vLLM's worker process, before it loads the model."""

    def __new__(cls, **kwargs):
        # vLLM repacks linear weights for its CPU kernels and drops the originals, so that verl's weight sync finds no
        # parameter to load into. The embedding's method repacks alike and keeps the original, for every later sync.
        UnquantizedLinearMethod.process_weights_after_loading = UnquantizedEmbeddingMethod.process_weights_after_loading
        return super().__new__(cls, **kwargs)


class CPUvLLMHttpServer(vLLMHttpServer):
    def _get_worker_extension_cls(self) -> str:
        return f"{CPUWorkerExtension.__module__}.{CPUWorkerExtension.__qualname__}"


class CPUvLLMReplica(vLLMReplica):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.server_class = ray.remote(CPUvLLMHttpServer)
