"""What ends a training that waits for what will not come.

verl's trainer waits for its agent loops without looking at them: one that is dead is waited for without end. So is a
vLLM server that died before it took the new weights. And where a loop fails, because its vLLM server, its reward worker
or the grader is gone, verl trains on what came before.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

if TYPE_CHECKING:
    from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

PAUSE_SECONDS = 2.0

Ask = Callable[[], ray.ObjectRef]
"""Asks a process something that it answers if it lives, and fails to if it is dead."""


class Watch:
    """Asks processes now and then whether they live.

    Args:
        questions: gives them by the names of the processes, once these have been made.
    """

    def __init__(self, questions: Callable[[], Mapping[str, Ask]]):
        self._questions = questions
        self._asked: dict[str, ray.ObjectRef] = {}
        self._next = 0.0

    def look(self) -> None:
        """Never waits: whoever is asked may be busy.

        Raises:
            RuntimeError: naming one that is dead.
        """
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + PAUSE_SECONDS
        for name, ask in self._questions().items():
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
            self._asked[name] = ask()

    @contextmanager
    def over(self, workers: Sequence[ActorHandle]) -> Iterator[None]:
        """Looks while others wait for these workers, and ends them when somebody is dead whom they may wait for.

        Raises:
            RuntimeError: naming who was dead, where the wait then failed.
        """
        dead: list[RuntimeError] = []
        ended = threading.Event()

        def look_on() -> None:
            while not (ended.wait(PAUSE_SECONDS) or dead):
                try:
                    self.look()
                except RuntimeError as error:
                    dead.append(error)
                    for worker in workers:
                        ray.kill(worker)

        thread = threading.Thread(target=look_on, daemon=True)
        thread.start()
        try:
            yield
        except RayError as error:
            if dead:
                raise dead[0] from error
            raise
        finally:
            ended.set()
            thread.join()


def supervise(buffer: "ReplayBuffer", watch: Watch) -> None:
    """Let a sampler of verl's notice that responses will not come.

    `trainer.v1.sampler.sync_refill_failed_groups` remains the way to go on with other questions where a loop fails.
    """
    sample, wait = buffer.sample, buffer._wait_for_next_poll

    def wait_and_look(partition_id: str, last_debug_time: float) -> float:
        watch.look()
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

    buffer._wait_for_next_poll = wait_and_look  # type: ignore[method-assign]
    buffer.sample = sample_all  # type: ignore[method-assign]
