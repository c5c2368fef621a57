"""verl's FSDP engine on the CPU."""

from verl.sdpo.engine.placement import PlacedEngine
from verl.workers.engine import EngineRegistry

EngineRegistry.register(model_type="language_model", backend=["fsdp", "fsdp2"], device="cpu")(PlacedEngine)
