"""verl's FSDP engine on the CPU."""

from typing import Any

from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngine, FSDPEngineWithLMHead


def without_offload(engine_class: type[FSDPEngine]) -> type[FSDPEngine]:
    """The same engine, whose forward-only models are built without CPU offload.

    verl offloads every forward-only model (the reference) with pinned memory, which needs an accelerator.
    """

    base: Any = engine_class  # mypy takes no variable as a base

    class CPUEngine(base):
        def _build_fsdp_module(self, module):
            forward_only = self.engine_config.forward_only
            self.engine_config.forward_only = False
            try:
                return super()._build_fsdp_module(module)
            finally:
                self.engine_config.forward_only = forward_only

    CPUEngine.__name__ = CPUEngine.__qualname__ = f"CPU{engine_class.__name__}"
    return CPUEngine


EngineRegistry.register(model_type="language_model", backend=["fsdp", "fsdp2"], device="cpu")(
    without_offload(FSDPEngineWithLMHead)
)
