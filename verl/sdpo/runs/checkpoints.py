"""Checkpoints that a crash can neither tear unseen nor take away.

verl writes over the file that names the latest checkpoint, after it has deleted the one before and before the step is
logged. Whatever ends a training in between leaves a run that cannot be continued, or a step without its line in the
log. Here a checkpoint is sealed by a list of its files once they are all written, named when its step is logged, and
only then are older ones deleted. A start passes over checkpoints that are not whole.
"""

import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

logger = logging.getLogger(__name__)

# verl's (verl/trainer/ppo/v1/trainer_base.py:_save_checkpoint)
TRACKER = "latest_checkpointed_iteration.txt"
# In the folder of a checkpoint: each of its files with its size in bytes.
SEAL = "sealed.json"


def replace(file: Path, text: str) -> None:
    """Write a file so that there is always the whole old or the whole new one."""
    scratch = file.with_name(f".{file.name}")
    scratch.write_text(text)
    os.replace(scratch, file)


def folder_of(folder: Path, step: int | str) -> Path:
    """That of a step's checkpoint, below `trainer.default_local_dir`."""
    return folder / f"global_step_{step}"


def seal(checkpoint: Path) -> None:
    """Say that all of a checkpoint is written; all ranks must have ended their saving."""
    files = {path for path in checkpoint.rglob("*") if path.is_file()} - {checkpoint / SEAL}
    replace(checkpoint / SEAL, json.dumps({str(file.relative_to(checkpoint)): file.stat().st_size for file in files}))


def name_latest(folder: Path, step: int) -> None:
    """Let the next start go on from this step."""
    replace(folder / TRACKER, str(step))


def delete_old(folder: Path, step: int, keep: int | None) -> None:
    """Delete the checkpoints before `step`, but for the newest of them: with that of `step` so many are kept.

    Args:
        keep: verl's `trainer.max_actor_ckpt_to_keep`; None or 0 keeps all.
    """
    if not keep or keep < 0:
        return
    older = [number for number in _steps(folder) if number < step]
    for number in older[: max(len(older) - (keep - 1), 0)]:
        # Without its seal first, lest what is left of it be taken for whole.
        (folder_of(folder, number) / SEAL).unlink(missing_ok=True)
        shutil.rmtree(folder_of(folder, number), ignore_errors=True)


def newest_whole(trainer: Mapping) -> tuple[int | None, str | None]:
    """The step from which `resume_mode=auto` goes on, None where verl begins anew or is told where; and, where that is
    not the latest, a sentence that says why: the latest is torn.

    A checkpoint without a seal, as version 0.1 and verl itself make them, is taken for whole.

    Args:
        trainer: the block of the configuration.

    Raises:
        ValueError: the latest is torn, and there is no other.
    """
    folder = Path(trainer["default_local_dir"])
    tracker = folder / TRACKER
    if trainer["resume_mode"] != "auto" or not tracker.is_file():
        return None, None
    named = tracker.read_text().strip()
    if named.isdigit():
        fault = _fault(folder_of(folder, int(named)))
        what, before = f"{folder_of(folder, int(named))} is torn: {fault}", int(named)
    else:
        fault = f"it says {named!r}"
        what, before = f"{tracker} should hold the number of a step, and {fault}", max(_steps(folder), default=0) + 1
    if fault is None:
        return int(named), None
    whole = [step for step in _steps(folder) if step < before and _is_sealed(folder_of(folder, step))]
    if whole:
        return whole[-1], f"{what}. The run goes on from global_step_{whole[-1]}, the newest whole checkpoint."
    if not named.isdigit() or folder_of(folder, int(named)).is_dir():
        raise ValueError(
            f"{what}. There is no other whole checkpoint to continue from. Put the file back, or begin the run anew by "
            f"moving {folder} away."
        )
    # What is not there at all was deleted.
    return None, None


def choose_whole(trainer: Mapping) -> None:
    """See to it that verl resumes from a whole checkpoint (`newest_whole`)."""
    step, sentence = newest_whole(trainer)
    if sentence and step is not None:
        logger.warning("%s", sentence)
        name_latest(Path(trainer["default_local_dir"]), step)


def _is_sealed(checkpoint: Path) -> bool:
    return (checkpoint / SEAL).is_file() and _fault(checkpoint) is None


def _fault(checkpoint: Path) -> str | None:
    """What is wrong with it, if anything."""
    if not checkpoint.is_dir():
        return "it is not there"
    if not (checkpoint / SEAL).is_file():
        return None
    try:
        sizes = json.loads((checkpoint / SEAL).read_text())
    except ValueError:
        return f"{SEAL} is cut off"
    for name, size in sizes.items():
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} of {size} bytes"
    return None


def _steps(folder: Path) -> list[int]:
    """Of which there are checkpoints, whole or not, in their order."""
    names = (path.name.removeprefix("global_step_") for path in folder.glob("global_step_*"))
    return sorted(int(name) for name in names if name.isdigit())
