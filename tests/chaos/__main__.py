"""Breaks twenty-two trainings, each once, at a moment drawn from a seed, and looks what becomes of them.

    python -m tests.chaos [--seed 0] [--only driver-0 disk-1 ...] [--out FOLDER]

Prints a table and writes it as FOLDER/chaos.json; what is in FOLDER from before (the undisturbed run, the rows of other
runs) is taken over. A run passes if it goes on, or ends within `ENDS_WITHIN_S` with a sentence that says why and leaves
no process; if it completes when it is started again, with the losses of an undisturbed run; and if no step, attempt or
checkpoint is missing or counted twice.
"""

import argparse
import json
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos import compare, machine
from tests.chaos.compare import Row
from tests.chaos.faults import FAULTS, Fault, NotRun
from tests.chaos.plan import STEPS, Moment, make
from tests.chaos.training import Hung, Training
from tests.e2e import tiny

# On a machine that is busy with another training.
ENDS_WITHIN_S = 60
LEAVES_WITHIN_S = 5
# A run that goes on, or a start to its end.
COMPLETES_WITHIN_S = 1200
ATTEMPTS_PER_STEP = 16


class Chaos:
    """The undisturbed run, and everything that the others share."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.model = tiny.build_model(folder / "model")
        self.data = tiny.build_data(folder / "data" / "task")
        shutil.copy(Path(__file__).with_name("reward.py"), self.data / "reward.py")
        self.undisturbed: compare.Metrics = {}

    def run_undisturbed(self) -> None:
        folder = self.folder / "undisturbed"
        training = Training(folder, self.model, self.data)
        try:
            if not (folder / "complete").exists():
                training.start()
                if training.ended(COMPLETES_WITHIN_S) or training.logged != STEPS:
                    raise RuntimeError(f"The undisturbed run failed:\n{training.said}\n{training.output[-3000:]}")
        finally:
            machine.kill_all()
        self.undisturbed = training.metrics

    def run(self, moment: Moment) -> Row:
        shutil.rmtree(self.folder / moment.name, ignore_errors=True)
        training = Training(self.folder / moment.name, self.model, self.data)
        fault = FAULTS[moment.fault](moment, training)
        where = f"step {moment.step} + {moment.part:.2f}"
        try:
            fault.prepare()
            return self._disturb(fault, where)
        except NotRun as error:
            return Row(moment.name, where, faults=(f"not run: {error}",))
        except Hung as error:
            return Row(moment.name, where, faults=(f"{type(error).__name__}: {error}",))
        finally:
            machine.kill_all()
            fault.mend()

    def _disturb(self, fault: Fault, where: str) -> Row:
        training, moment = fault.training, fault.moment
        training.start()
        seconds = moment.part * self.undisturbed[moment.step]["timing_s/step"]
        if not training.wait_for_step(moment.step, seconds):
            raise Hung("it ended before the fault")
        done, since = fault.inject(), time.monotonic()
        # A fault that is borne shows by the run's completing.
        status = training.ended(COMPLETES_WITHIN_S if fault.may_go_on else ENDS_WITHIN_S)
        seconds = time.monotonic() - since
        left = machine.left(LEAVES_WITHIN_S)
        starts, faults, resumed_from = [0], [], None
        happened = f"{done}; "
        if status == 0:
            happened += "went on"
            if not fault.may_go_on:
                faults.append("it went on as if nothing had happened")
        else:
            sentence = _sentence(fault.says, training.said) or _sentence(fault.says, training.output)
            happened += sentence or f"ended with status {status}"
            if not sentence:
                faults.append(f"nothing says {fault.says!r}")
            if "start it again" not in training.said:
                faults.append("the job script does not say what to do")
            machine.kill_all()
            fault.mend()
            training.start()
            again = training.ended(COMPLETES_WITHIN_S)
            resumed_from = _resumed_from(training.output)
            starts.append(resumed_from)
            if fault.says_again:
                sentence = _sentence(fault.says_again, training.output)
                happened += f"; {sentence}"
                if not sentence:
                    faults.append(f"started again it does not say {fault.says_again!r}")
            if again:
                faults.append(f"started again it ended with status {again}: {training.said[-300:]}")
            left |= machine.left(LEAVES_WITHIN_S)
        if left:
            faults.append(f"processes left: {sorted({title[:60] for title in left.values()})}")
        counted = compare.miscounted(training.attempts, starts, steps=STEPS, may_repeat=fault.may_repeat)
        different = compare.different_losses(training.metrics, self.undisturbed)
        faults += different[:2] + counted + _lost(training)
        return Row(
            moment.name,
            where,
            happened,
            None if status == 0 else seconds,
            resumed_from,
            not different,
            len(left),
            tuple(faults),
        )


def _sentence(pattern: str, text: str) -> str:
    """The line that has it, without what log formats put before it."""
    lines = [line for line in text.splitlines() if re.search(pattern, line)]
    return re.sub(r"^\S+ \S+ [\w-]+: |^[\w.]+Error(\(\w+\))?: |\x1b\[\d+m", "", lines[-1])[:200] if lines else ""


def _resumed_from(output: str) -> int:
    """The step after which a start went on, as verl says."""
    found = re.findall(r"setting global step to (\d+)", output)
    return int(found[-1]) if found else 0


def _lost(training: Training) -> list[str]:
    """Attempts and checkpoints that are missing at the end, or there twice."""
    faults = []
    if (rollouts := training.rollouts) != dict.fromkeys(range(1, STEPS + 1), ATTEMPTS_PER_STEP):
        faults.append(f"attempts per step: {rollouts}")
    kept = sorted(path.name for path in training.checkpoints.glob("global_step_*"))
    if training.saved != STEPS or kept != [f"global_step_{step}" for step in (STEPS - 1, STEPS)]:
        faults.append(f"checkpoints {kept}, the latest of step {training.saved}")
    return faults


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0 if every run passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", help="names of single runs, as the table has them")
    parser.add_argument("--out", type=Path, help="a folder for the table and all that the runs write")
    given = parser.parse_args(arguments)
    plan = make(list(FAULTS), given.seed)
    if unknown := set(given.only or ()) - {moment.name for moment in plan}:
        parser.error(f"no run is called {sorted(unknown)}; there are {[moment.name for moment in plan]}")
    folder = (given.out or Path(tempfile.mkdtemp(prefix="chaos-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    # Whoever ends this program ends its runs.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    machine.adopt_orphans()
    machine.has_own_mounts()
    chaos = Chaos(folder)
    chaos.run_undisturbed()
    kept = folder / "chaos.json"
    rows = compare.from_json(json.loads(kept.read_text())) if kept.is_file() else {}
    for moment in plan:
        if given.only and moment.name not in given.only:
            continue
        rows[moment.name] = chaos.run(moment)
        print(compare.table([rows[moment.name]]).splitlines()[-1], file=sys.stderr, flush=True)
        kept.write_text(json.dumps(compare.as_json(rows), indent=1))
    rows = {moment.name: rows[moment.name] for moment in plan if moment.name in rows}
    passed = sum(not row.faults for row in rows.values())
    print(compare.table(list(rows.values())))
    print(f"\n{passed} of {len(rows)} runs passed, of {len(plan)} planned; everything is in {folder}")
    return 0 if passed == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
