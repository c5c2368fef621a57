"""The way of weights to generation apart from training, over TCP; verl's need CUDA, an NPU or RDMA."""

from collections.abc import AsyncGenerator, Generator
from typing import Any

import ray
import torch
import zmq

from verl.checkpoint_engine import CheckpointEngine, CheckpointEngineRegistry


@CheckpointEngineRegistry.register("tcp")
class TCPCheckpointEngine(CheckpointEngine):
    """The actor's first rank sends every weight to every replica. `rollout.checkpoint_engine.backend=tcp`."""

    def __init__(self, bucket_size: int, is_master: bool = False):
        self.is_master = is_master
        self.sockets: list[zmq.Socket] = []

    def prepare(self) -> dict[str, str]:
        """Address at which this process listens, unless it is the one that sends."""
        if self.is_master:
            return {}
        inbox: zmq.Socket = zmq.Context.instance().socket(zmq.PULL)
        self.sockets = [inbox]
        here = f"tcp://{ray.util.get_node_ip_address()}"
        return {"address": f"{here}:{inbox.bind_to_random_port(here)}"}

    @classmethod
    def build_topology(cls, actor_wg_world_size: int, rollout_world_size: int, metadata: list[dict]):
        nobody: list[str] = []
        receivers = [process["address"] for process in metadata[actor_wg_world_size:]]
        return (
            {"receivers": [receivers] + [nobody] * (actor_wg_world_size - 1)},
            {"receivers": [nobody] * rollout_world_size},
        )

    def init_process_group(self, **kwargs: Any) -> None:
        """receivers: addresses."""
        for address in kwargs["receivers"]:
            outbox: zmq.Socket = zmq.Context.instance().socket(zmq.PUSH)
            outbox.connect(address)
            self.sockets.append(outbox)

    def finalize(self) -> None:
        for socket in self.sockets:
            socket.close()
        self.sockets = []

    async def send_weights(
        self, weights: Generator[tuple[str, torch.Tensor], None, None], global_steps: int | None = None
    ) -> None:
        # Every rank takes its part in gathering them.
        for name, weight in weights:
            if self.is_master:
                # A view would take all of its storage along.
                self._send((name, weight.clone()))
        if self.is_master:
            self._send(None)

    def _send(self, message: tuple[str, torch.Tensor] | None) -> None:
        for outbox in self.sockets:
            outbox.send_pyobj(message)

    async def receive_weights(  # type: ignore[override]  # verl's own are generators too, and annotated otherwise
        self, global_steps: int | None = None
    ) -> AsyncGenerator[tuple[str, torch.Tensor], None]:
        (inbox,) = self.sockets
        while (message := inbox.recv_pyobj()) is not None:
            yield message
