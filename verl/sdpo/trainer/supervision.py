"""Fail fast: a watchdog over the Ray actors of a training, and a check that no response is missing.

verl's trainer waits for its agent loops without looking at them: it waits without end for one that is dead, and for a
vLLM server that died before it took the new weights. And where a loop fails, because its vLLM server, its reward worker
or the grader is gone, verl trains on what came before.
"""

import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

if TYPE_CHECKING:
    from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

PAUSE_SECONDS = 2.0


def report_health(actor: Any) -> None:
    """Check an actor, in its own process.

    Raises:
        RuntimeError: the actor is a vLLM server that lives on without its engine. The engine is not asked: one that is
            dead does not answer, and one that takes weights may take long.
    """
    if getattr(getattr(actor, "engine", None), "errored", False):
        raise RuntimeError("Its engine is dead.")


class Watchdog:
    """Checks now and then that actors are alive.

    Args:
        actors: returns the actors by name, once they have been made.
    """

    def __init__(self, actors: Callable[[], Mapping[str, ActorHandle]]):
        self._actors = actors
        self._asked: dict[str, ray.ObjectRef] = {}
        self._next = 0.0

    def check(self) -> None:
        """Check the actors, at most every `PAUSE_SECONDS`. Never waits, as an actor may be busy.

        Raises:
            RuntimeError: naming an actor that is dead.
        """
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + PAUSE_SECONDS
        for name, actor in self._actors().items():
            asked = self._asked.get(name)
            if asked is not None and not ray.wait([asked], timeout=0)[0]:
                continue
            if asked is not None:
                try:
                    ray.get(asked)
                except RayError as error:
                    raise RuntimeError(
                        f"The {name} died. If the machine ran out of memory, its log says so. Start the run again: it "
                        "goes on from its last checkpoint."
                    ) from error
            self._asked[name] = actor.__ray_call__.remote(report_health)

    def run(self, wait: Callable[[], object]) -> None:
        """Call a function that waits for these actors; when one of them dies, kill all, so that the wait ends.

        Raises:
            RuntimeError: naming the actor that died.
        """
        dead: list[RuntimeError] = []
        ended = threading.Event()

        def watch() -> None:
            while not (ended.wait(PAUSE_SECONDS) or dead):
                try:
                    self.check()
                except RuntimeError as error:
                    dead.append(error)
                    for actor in self._actors().values():
                        ray.kill(actor)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            wait()
        except RayError as error:
            if dead:
                raise dead[0] from error
            raise
        finally:
            ended.set()
            thread.join()
        if dead:
            raise dead[0]


def supervise(buffer: "ReplayBuffer", watchdog: Watchdog) -> None:
    """Let a sampler of verl's fail when responses will not come.

    `trainer.v1.sampler.sync_refill_failed_groups` remains the way to go on with others where all
    loops of a question fail.
    """
    sample, wait = buffer.sample, buffer._wait_for_next_poll

    def wait_and_check(partition_id: str, last_debug_time: float) -> float:
        watchdog.check()
        return wait(partition_id, last_debug_time)

    def sample_all(**request):
        try:
            return sample(**request)
        finally:
            # Also where verl itself refuses, because no response at all has come.
            refuse_failed(**request)

    def refuse_failed(global_steps: int, partition_id: str, batch_size: int) -> None:
        if failed := len(buffer.failure_keys[partition_id]):
            raise RuntimeError(
                f"step {global_steps}: the responses to {failed} of {batch_size} questions are not all there, because "
                "their agent loop failed. Its error is above, after 'Error in _run_prompt'. Nothing of this step is "
                "kept: start the run again, and it repeats the step."
            )

    buffer._wait_for_next_poll = wait_and_check  # type: ignore[method-assign]
    buffer.sample = sample_all  # type: ignore[method-assign]
