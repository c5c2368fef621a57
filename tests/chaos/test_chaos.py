"""The harness' own logic, in seconds; and with `-m chaos` all twenty-two runs (an hour and more)."""

import json
import os
import subprocess
import sys

import pytest

from tests.chaos import __main__ as chaos
from tests.chaos import compare, machine
from tests.chaos.compare import LOSSES, Row
from tests.chaos.faults import FAULTS
from tests.chaos.plan import STEPS, make


def test_a_plan_is_twenty_two_moments_of_which_each_can_be_repeated_alone():
    plan = make(list(FAULTS), seed=0)
    assert len({moment.name for moment in plan}) == len(plan) == 22
    assert plan == make(list(FAULTS), seed=0)
    assert make(["disk"], seed=0) == [moment for moment in plan if moment.fault == "disk"]
    assert plan != make(list(FAULTS), seed=1)
    assert all(1 <= moment.step < STEPS and 0 <= moment.part < 1 for moment in plan)
    assert len({(moment.step, moment.part) for moment in plan}) == 22


NUMBERS = dict.fromkeys(LOSSES, 0.5)
UNDISTURBED = {1: NUMBERS, 2: NUMBERS}


def test_equal_losses_are_equal_to_rounding():
    nearly = {name: value * (1 + 1e-7) for name, value in NUMBERS.items()}
    assert compare.different_losses({1: NUMBERS, 2: nearly}, UNDISTURBED) == []


@pytest.mark.parametrize(
    ("second", "wrong"),
    [({**NUMBERS, "actor/pg_loss": 0.50002}, 1), ({**NUMBERS, "actor/pg_loss": float("nan")}, 1), ({}, len(LOSSES))],
)
def test_other_and_missing_losses_are_different(second, wrong):
    lines = compare.different_losses({1: NUMBERS, 2: second}, UNDISTURBED)
    assert len(lines) == wrong
    assert lines[0].startswith("step 2: actor/pg_loss is ")


@pytest.mark.parametrize(
    ("attempts", "starts", "faults"),
    [
        ([[1, 2, 3, 4]], [0], []),
        ([[1, 2], [3, 4]], [0, 2], []),
        # Logged, and killed before its checkpoint was named.
        ([[1, 2], [2, 3, 4]], [0, 1], []),
        ([[], [1, 2, 3, 4]], [0, 0], []),
        ([[1, 2], [4]], [0, 3], ["the steps [3] were logged by no start"]),
        ([[1, 2, 3], [1, 2, 3, 4]], [0, 0], ["3 steps were taken and logged twice, although every step was saved"]),
        ([[1, 2], [2, 3, 4]], [0, 2], ["start 2 went on from step 2 and logged the steps [2, 3, 4]"]),
        ([[1, 3, 4]], [0], ["start 1 went on from step 0 and logged the steps [1, 3, 4]"]),
    ],
)
def test_steps_are_counted(attempts, starts, faults):
    found = compare.miscounted(attempts, starts, steps=4, may_repeat=1)
    assert [fault for fault in faults if fault not in found] == []
    assert bool(found) == bool(faults)


def test_a_row_survives_the_table_on_disk():
    row = Row("disk-0", "step 2 + 0.43", "room for 3 KiB", 4.25, 1, True, 0, ("one | two",))
    stored = json.loads(json.dumps(compare.as_json({"disk-0": row})))
    assert (stored[0]["passed"], compare.from_json(stored)) == (False, {"disk-0": row})
    assert compare.table([row]).splitlines()[-1] == (
        "| disk-0 | step 2 + 0.43 | room for 3 KiB | 4.2 | step 1 | True | 0 | one / two |"
    )


def test_the_sentence_is_found_without_its_decoration():
    text = "noise\n2026-01-01 10:00:00 driver-0: its process was ended by signal 9\nRuntimeError: The worker died.\n"
    assert chaos._sentence("ended by signal 9", text) == "its process was ended by signal 9"
    assert chaos._sentence("died", text) == "The worker died."
    assert chaos._sentence("full", text) == ""


def test_the_start_says_after_which_step_it_goes_on():
    assert chaos._resumed_from("Resuming from /runs/global_step_3, setting global step to 3") == 3
    assert chaos._resumed_from("Training from scratch") == 0


def test_processes_of_a_run_are_found_wherever_they_hide():
    """Its parent has ended and it has a session of its own: whoever adopts orphans still sees it, and can end it."""
    code = """
import subprocess, sys, time
from tests.chaos import machine
machine.adopt_orphans()
subprocess.run(["bash", "-c", "setsid sleep 605 >/dev/null 2>&1 &"])
while list(machine.descendants().values()) != ["sleep 605"]:
    time.sleep(0.1)
print("found")
machine.kill_all()
print(machine.left(5))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.stdout == "found\n{}\n", run.stdout + run.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_small_disk_is_full_to_the_page(tmp_path):
    code = f"""
from pathlib import Path
from tests.chaos import machine
assert machine.has_own_mounts()
disk = machine.SmallDisk(Path({str(tmp_path)!r}))
(disk.path / "before").write_bytes(bytes(10_000))
disk.leave(4096)
(disk.path / "fits").write_bytes(bytes(4096))
try:
    (disk.path / "does not").write_bytes(bytes(4096))
except OSError as error:
    print(error.strerror)
disk.mend()
(disk.path / "does not").write_bytes(bytes(4096))
print(len((disk.path / "before").read_bytes()))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.stdout == "No space left on device\n10000\n", run.stdout + run.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.chaos
def test_all_of_the_plan(tmp_path):
    run = subprocess.run([sys.executable, "-m", "tests.chaos", "--out", tmp_path], stdout=subprocess.PIPE, text=True)
    assert run.returncode == 0, run.stdout
    assert "22 of 22 runs passed" in run.stdout


def test_a_machine_without_the_right_to_mount_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "has_own_mounts", lambda: False)
    monkeypatch.setattr(chaos.machine, "kill_all", lambda: None)
    shared = chaos.Chaos(tmp_path)
    (moment, _) = make(["disk"], seed=0)
    assert shared.run(moment).faults == ("not run: only root may mount a small disk",)
