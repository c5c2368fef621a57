"""Groups of ranks that stay alive between tests, so that verl is imported once per rank and not once per test."""

import os
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

STARTUP_SECONDS = 240
# Ranks compete with whatever else the machine runs; a hang lasts for ever, a check takes seconds.
CHECK_SECONDS = 120
# verl's own for CUDA: it reduces numbers of the host, too.
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}


def _serve(rank: int, world_size: int, rendezvous: str, connection, device: str) -> None:
    # Read when verl is imported, which the first check does.
    os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
    if device == "cpu":
        os.environ["VERL_PLATFORM"] = "cpu"
    else:
        os.environ.pop("VERL_PLATFORM", None)
        torch.cuda.set_device(rank)
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        BACKENDS[device],
        init_method=f"file://{rendezvous}",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=STARTUP_SECONDS),
    )
    from tests.sdpo import engines

    connection.send((True, None))
    while (task := connection.recv()) is not None:
        check, kwargs = task
        try:
            connection.send((True, check(engines, **kwargs)))
        except Exception:
            connection.send((False, traceback.format_exc()))


class RankGroup:
    """`world_size` processes with an initialised default process group: with VERL_PLATFORM=cpu, or a GPU each."""

    def __init__(self, world_size: int, folder: Path, device: str = "cpu", check_seconds: int = CHECK_SECONDS):
        self.device = device
        self.check_seconds = check_seconds
        self.world_size = world_size
        self.folder = folder
        self.processes = []

    def _start(self) -> None:
        context = mp.get_context("spawn")
        rendezvous = self.folder / f"rendezvous-{os.urandom(4).hex()}"
        self.connections = []
        for rank in range(self.world_size):
            here, there = context.Pipe()
            arguments = (rank, self.world_size, str(rendezvous), there, self.device)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            there.close()
            self.connections.append(here)
            self.processes.append(process)
        self._collect(STARTUP_SECONDS)

    def run(self, check: Callable[..., Any], **kwargs) -> list[Any]:
        """Call `check(engines, **kwargs)` on every rank, where `engines` is the module tests.sdpo.engines.

        Returns:
            What the ranks returned, in their order.

        Raises:
            AssertionError: with the traceback of the first rank that failed, or when a rank hangs.
        """
        if not self.processes:
            self._start()
        for connection in self.connections:
            connection.send((check, kwargs))
        return self._collect(self.check_seconds)

    def _collect(self, seconds: float) -> list[Any]:
        results = []
        for rank, connection in enumerate(self.connections):
            if not connection.poll(seconds):
                self.close()
                raise AssertionError(f"rank {rank} of {self.world_size} gave no answer within {seconds} s: a hang?")
            succeeded, result = connection.recv()
            if not succeeded:
                # The other ranks may wait in a collective that this one never entered.
                self.close()
                raise AssertionError(f"rank {rank} of {self.world_size}:\n{result}")
            results.append(result)
        return results

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()
        self.processes = []
