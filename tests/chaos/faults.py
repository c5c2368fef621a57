"""What can be broken. Each fault is one class: how it is done, and what the run is then allowed to do."""

import os
import random
import signal
import time
from pathlib import Path
from typing import ClassVar

from tests.chaos import machine
from tests.chaos.plan import Moment
from tests.chaos.training import Training
from verl.sdpo.runs.checkpoints import MANIFEST

# For what a few steps bring.
PATIENCE_S = 300


class NotRun(Exception):
    """This machine cannot make the fault."""


class Fault:
    """One fault in one run. `prepare` and `mend` are called whatever happens in between, `mend` perhaps twice.

    Attributes:
        may_go_on: whether the run may also go on as if nothing had happened; else it must end, and say why.
        may_repeat: how many steps may be taken twice: one that was logged, and its checkpoint not yet named.
        says: what must then be found in what the job script or the run said, a part of a sentence.
        says_again: what must be found in what the run says when it is started again.
    """

    may_go_on: ClassVar[bool] = False
    may_repeat: ClassVar[int] = 1
    says: ClassVar[str]
    says_again: ClassVar[str] = ""

    def __init__(self, moment: Moment, training: Training):
        self.moment, self.training = moment, training
        self.draw = random.Random(moment.draw)

    def prepare(self) -> None:
        """Before the run is started."""

    def inject(self) -> str:
        """At the moment; returns what was done."""
        raise NotImplementedError

    def mend(self) -> None:
        """Before the run is started again."""


class Kill(Fault):
    """SIGKILL of one process, found by a part of its command line or of Ray's title."""

    titles: ClassVar[tuple[str, ...]]
    sent: ClassVar[signal.Signals] = signal.SIGKILL

    def inject(self) -> str:
        title = self.titles[self.moment.number % len(self.titles)]
        # The sandbox starts with the first program.
        self.training.wait_until(lambda: bool(self._find(title)), PATIENCE_S)
        os.kill(self.draw.choice(self._find(title)), self.sent)
        return f"{self.sent.name} to {title}"

    def _find(self, title: str) -> list[int]:
        return sorted(pid for pid, command in machine.descendants().items() if title in command)


class Driver(Kill):
    """The process that the job script started, or the one in which verl's trainer runs."""

    titles = ("-m verl.trainer.main_ppo", "ray::TaskRunnerV1")
    says = r"ended by signal 9|died|SYSTEM_ERROR"


class Worker(Kill):
    titles = ("ray::WorkerDict",)
    says = r"died|SYSTEM_ERROR"


class RolloutServer(Kill):
    """vLLM: its engine, or the actor in front of it."""

    titles = ("VLLM::EngineCore", "ray::CPUvLLMHttpServer")
    says = r"agent loop failed|died|EngineDeadError"


class RolloutServerInUpdate(RolloutServer):
    """The same, while weights are trained that it will not take."""

    def inject(self) -> str:
        self.training.wait_until(lambda: bool(self._find("WorkerDict.actor_rollout_ref_update_actor")), PATIENCE_S)
        return f"{super().inject()} in an update"


class RewardWorker(Kill):
    titles = ("ray::RewardLoopWorker",)
    says = r"agent loop failed|died"


class ForkServer(Kill):
    """Goes on: the pool starts another, and asks it once more."""

    titles = ("jail.server",)
    may_go_on = True
    says = r"agent loop failed"


class Node(Kill):
    """Ray's node."""

    titles = ("raylet/raylet ",)
    says = r"died|ended by signal|ray.*(unexpectedly|crash|disconnect|Unavailable)"


class FullDisk(Fault):
    """The disk of the checkpoints has room for only a part of the next one."""

    says = r"could not be saved in .* MiB are free"

    disk: machine.SmallDisk | None = None

    def prepare(self) -> None:
        self.disk = _small_disk(self.training.checkpoints)

    def inject(self) -> str:
        # Just named, and older ones just deleted: nothing gives room before the next one is written.
        self.training.wait_until(lambda: self.training.saved >= self.moment.step, PATIENCE_S)
        time.sleep(0.2)
        first = self.training.checkpoints / f"global_step_{self.training.saved}"
        size = sum(file.stat().st_size for file in first.rglob("*") if file.is_file())
        room = int(self.draw.random() * size)
        assert self.disk
        self.disk.leave(room)
        return f"room for {room >> 10} KiB of {size >> 10}"

    def mend(self) -> None:
        if self.disk:
            self.disk.mend()


class TornCheckpoint(Fault):
    """The power fails: the run is ended, and a file of its latest checkpoint is cut off."""

    may_repeat = 2
    says = r"interrupted; start it again to continue"
    says_again = r"is incomplete: .* The run goes on from global_step_"
    is_due = False

    def inject(self) -> str:
        self.training.wait_until(lambda: self.training.saved >= 2, PATIENCE_S)
        self.training.interrupt()
        self.is_due = True
        return "interrupted, and a file of its latest checkpoint cut off"

    def mend(self) -> None:
        if not self.is_due:
            return
        self.is_due = False
        folder = self.training.checkpoints / f"global_step_{self.training.saved}"
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
        file = self.draw.choice([path for path in files if path.name != MANIFEST])
        os.truncate(file, int(self.draw.random() * file.stat().st_size))


class FullSharedMemory(Fault):
    """/dev/shm, through which Ray passes objects and verl the weights, has no room left."""

    may_go_on = True
    says = r"the disk of /dev/shm is full"

    disk: machine.SmallDisk | None = None

    def prepare(self) -> None:
        self.disk = _small_disk(Path("/dev/shm"))

    def inject(self) -> str:
        assert self.disk
        self.disk.leave(0)
        return f"/dev/shm full at {self.disk.used >> 20} MiB"

    def mend(self) -> None:
        if self.disk:
            self.disk.end()
            self.disk = None


class HungGrader(Fault):
    """The reward function waits for ever; or the sandbox's fork server stands still, and is replaced."""

    may_go_on = True
    says = r"The reward function hangs"

    def inject(self) -> str:
        if self.moment.number % 2:
            return _Stop(self.moment, self.training).inject()
        (self.training.data / "hang").touch()
        return "a grading that never ends"

    def mend(self) -> None:
        (self.training.data / "hang").unlink(missing_ok=True)


class _Stop(Kill):
    titles = ("jail.server",)
    sent = signal.SIGSTOP


def _small_disk(path: Path) -> machine.SmallDisk:
    if not machine.has_own_mounts():
        raise NotRun("only root may mount a small disk")
    return machine.SmallDisk(path)


FAULTS: dict[str, type[Fault]] = {
    "driver": Driver,
    "worker": Worker,
    "vllm": RolloutServer,
    "vllm-in-update": RolloutServerInUpdate,
    "reward": RewardWorker,
    "fork-server": ForkServer,
    "node": Node,
    "disk": FullDisk,
    "torn": TornCheckpoint,
    "shm": FullSharedMemory,
    "grader": HungGrader,
}
