"""A training fails fast when an actor dies. Ray is a fake in the first tests: an actor answers, is busy, or is dead."""

import importlib.util
import time
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import ray
from ray.exceptions import RayActorError

from verl.sdpo.trainer import supervision
from verl.sdpo.trainer.supervision import Watchdog, supervise


class Actor:
    def __init__(self, state: str = "living"):
        self.state, self.asked = state, 0
        self.__ray_call__ = SimpleNamespace(remote=self._ask)

    def _ask(self, question):
        self.asked += 1
        return self


class FakeRay:
    @staticmethod
    def wait(references, timeout):
        assert timeout == 0
        ready = [actor for actor in references if actor.state != "busy"]
        return ready, [actor for actor in references if actor not in ready]

    @staticmethod
    def get(actor):
        if actor.state == "dead":
            raise RayActorError


@pytest.fixture
def clock():
    clock = SimpleNamespace(now=0.0)
    with mock.patch.multiple(supervision, ray=FakeRay, time=SimpleNamespace(monotonic=lambda: clock.now)):
        yield clock


def check(watchdog: Watchdog, clock) -> None:
    clock.now += supervision.PAUSE_SECONDS
    watchdog.check()


def test_dead_actors_are_named_and_busy_ones_left_alone(clock):
    actors = {"reward worker 0": Actor(), "training worker 0": Actor("busy")}
    watchdog = Watchdog(lambda: actors)
    for _ in range(3):
        check(watchdog, clock)
    assert [actor.asked for actor in actors.values()] == [3, 1]
    actors["reward worker 0"].state = "dead"
    with pytest.raises(RuntimeError, match=r"The reward worker 0 died\."):
        check(watchdog, clock)


def test_actors_are_checked_now_and_then(clock):
    actor = Actor()
    watchdog = Watchdog(lambda: {"rollout server 0": actor})
    check(watchdog, clock)
    watchdog.check()
    assert actor.asked == 1


class Buffer:
    """Waits twice; then some questions have failed."""

    def __init__(self, failed: set[str]):
        self.failure_keys = {"train": failed}
        self.waited = []

    def sample(self, global_steps, partition_id, batch_size):
        for _ in range(2):
            self._wait_for_next_poll(partition_id, 0.0)
        return "batch", {}

    def _wait_for_next_poll(self, partition_id, last_debug_time):
        self.waited.append(partition_id)
        return last_debug_time


def sample(buffer: Buffer):
    supervise(buffer, Watchdog(lambda: {"agent loop worker 0": Actor("dead")}))
    return buffer.sample(global_steps=7, partition_id="train", batch_size=4)


def test_a_whole_batch_is_handed_on(clock):
    buffer = Buffer(set())
    assert sample(buffer) == ("batch", {})
    assert buffer.waited == ["train", "train"]


def test_a_step_is_not_made_of_what_is_left(clock):
    with pytest.raises(RuntimeError, match="step 7: the responses to 1 of 4 questions are not all there"):
        sample(Buffer({"uid"}))


def test_waiting_for_responses_checks_the_actors(clock):
    """The first check asks; the dead actor's answer is there at the second."""
    buffer = Buffer(set())
    verls_wait = buffer._wait_for_next_poll

    def wait(*arguments):
        clock.now += 60
        return verls_wait(*arguments)

    buffer._wait_for_next_poll = wait
    clock.now = 60
    with pytest.raises(RuntimeError, match="The agent loop worker 0 died"):
        sample(buffer)


@ray.remote(num_cpus=0)
class Process:
    """As verl's worker, which hands the weights to a vLLM server through a socket that nobody reads any more; or as
    such a server."""

    def wait(self):
        time.sleep(600)

    def lose_engine(self):
        self.engine = SimpleNamespace(errored=True)


@pytest.fixture(scope="module")
def cluster():
    ray.init(num_cpus=1, include_dashboard=False)
    yield
    ray.shutdown()


@pytest.mark.parametrize(
    "end", [ray.kill, lambda server: ray.get(server.lose_engine.remote())], ids=["server", "engine"]
)
def test_a_wait_for_a_dead_server_ends(cluster, end):
    worker, server = Process.remote(), Process.remote()
    ray.get([worker.__ray_ready__.remote(), server.__ray_ready__.remote()])
    started = time.monotonic()
    watchdog = Watchdog(lambda: {"rollout server 0": server, "training worker 0": worker})

    def sync_weights():
        waiting = worker.wait.remote()
        end(server)
        ray.get(waiting)

    with pytest.raises(RuntimeError, match=r"The rollout server 0 died\."):
        watchdog.run(sync_weights)
    assert time.monotonic() - started < 10 * supervision.PAUSE_SECONDS


def test_a_death_is_reported_even_where_nothing_waited_for_the_actor(cluster):
    server = Process.remote()
    ray.get(server.__ray_ready__.remote())
    ray.kill(server)
    watchdog = Watchdog(lambda: {"reward worker 0": server})
    with pytest.raises(RuntimeError, match=r"The reward worker 0 died\."):
        watchdog.run(lambda: time.sleep(3 * supervision.PAUSE_SECONDS))


def test_a_living_actor_is_left_alone(cluster):
    worker = Process.remote()
    watchdog = Watchdog(lambda: {"training worker 0": worker})
    watchdog.run(lambda: time.sleep(3 * supervision.PAUSE_SECONDS))
    assert ray.get(worker.__ray_ready__.remote())


def test_vllm_and_verl_have_the_attributes_that_a_check_reads():
    """By their source: without an accelerator vLLM takes long to import."""
    vllm, verl = (Path(importlib.util.find_spec(name).submodule_search_locations[0]) for name in ("vllm", "verl"))
    assert "    def errored(self) -> bool:" in (vllm / "v1/engine/async_llm.py").read_text()
    server = verl / "workers/rollout/vllm_rollout/vllm_async_server.py"
    assert "        self.engine = engine_client\n" in server.read_text()
