"""Whoever waits for the dead notices. Ray is a fake but in the last test: an actor answers, is busy, or is dead."""

import time
from types import SimpleNamespace
from unittest import mock

import pytest
import ray
from ray.exceptions import RayActorError

from verl.sdpo.adapters import supervision
from verl.sdpo.adapters.supervision import Watch, supervise


class Actor:
    def __init__(self, state: str = "living"):
        self.state, self.asked = state, 0

    def ask(self):
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


def look(watch: Watch, clock) -> None:
    clock.now += supervision.PAUSE_SECONDS
    watch.look()


def test_the_dead_are_named_and_the_busy_are_left_alone(clock):
    actors = {"reward worker 0": Actor(), "training worker 0": Actor("busy")}
    watch = Watch(lambda: {name: actor.ask for name, actor in actors.items()})
    for _ in range(3):
        look(watch, clock)
    assert [actor.asked for actor in actors.values()] == [3, 1]
    actors["reward worker 0"].state = "dead"
    with pytest.raises(RuntimeError, match=r"The reward worker 0 died\."):
        look(watch, clock)


def test_it_looks_now_and_then(clock):
    actor = Actor()
    watch = Watch(lambda: {"rollout server 0": actor.ask})
    look(watch, clock)
    watch.look()
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
    supervise(buffer, Watch(lambda: {"agent loop worker 0": Actor("dead").ask}))
    return buffer.sample(global_steps=7, partition_id="train", batch_size=4)


def test_a_whole_batch_is_handed_on(clock):
    buffer = Buffer(set())
    assert sample(buffer) == ("batch", {})
    assert buffer.waited == ["train", "train"]


def test_a_step_is_not_made_of_what_is_left(clock):
    with pytest.raises(RuntimeError, match="step 7: the responses to 1 of 4 questions are not all there"):
        sample(Buffer({"uid"}))


def test_whoever_waits_looks(clock):
    """The first look asks; the dead actor's answer is there at the second."""
    buffer = Buffer(set())
    verls_wait = buffer._wait_for_next_poll

    def wait(*arguments):
        clock.now += 60
        return verls_wait(*arguments)

    buffer._wait_for_next_poll = wait
    clock.now = 60
    with pytest.raises(RuntimeError, match="The agent loop worker 0 died"):
        sample(buffer)


def test_a_wait_for_what_a_dead_server_will_not_do_is_ended():
    """As verl's worker, which hands the weights to a vLLM server through a socket that nobody reads any more."""

    @ray.remote(num_cpus=0)
    class Process:
        def wait(self):
            time.sleep(600)

    ray.init(num_cpus=1, include_dashboard=False)
    try:
        worker, server = Process.remote(), Process.remote()
        ray.get([worker.__ray_ready__.remote(), server.__ray_ready__.remote()])
        watch = Watch(lambda: {"rollout server 0": server.__ray_ready__.remote, "worker": worker.__ray_ready__.remote})
        ray.kill(server)
        started = time.monotonic()
        with pytest.raises(RuntimeError, match=r"The rollout server 0 died\."), watch.over([worker]):
            ray.get(worker.wait.remote())
        assert time.monotonic() - started < 10 * supervision.PAUSE_SECONDS
        with watch.over([]):
            pass
    finally:
        ray.shutdown()
