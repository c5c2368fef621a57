"""Crash-safe checkpoints.

verl points its tracker file to the latest checkpoint after it has deleted the one before, and before the step is
logged. A crash in between leaves a run that cannot be continued, or a step without its line in the log. Here a
checkpoint gets a manifest of its files once they are all written, and is committed when its step is logged; only then
are older ones deleted. A start skips incomplete checkpoints.
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
# In the folder of a checkpoint: the size in bytes of each of its files.
MANIFEST = "sealed.json"


def replace(file: Path, text: str) -> None:
    """Replace a file's text at once: a crash leaves the old or the new one."""
    scratch = file.with_name(f".{file.name}")
    scratch.write_text(text)
    os.replace(scratch, file)


def folder_of(folder: Path, step: int | str) -> Path:
    """Return the folder of a step's checkpoint below `trainer.default_local_dir`."""
    return folder / f"global_step_{step}"


def write_manifest(checkpoint: Path) -> None:
    """List the files of a checkpoint that all ranks have written."""
    files = {path for path in checkpoint.rglob("*") if path.is_file()} - {checkpoint / MANIFEST}
    replace(
        checkpoint / MANIFEST, json.dumps({str(file.relative_to(checkpoint)): file.stat().st_size for file in files})
    )


def commit(folder: Path, step: int) -> None:
    """Let the next start continue from this step."""
    replace(folder / TRACKER, str(step))


def delete_old(folder: Path, step: int, keep: int | None) -> None:
    """Delete the oldest checkpoints before `step`, so that `keep` remain with that of `step`.

    Args:
        keep: verl's `trainer.max_actor_ckpt_to_keep`; None or 0 keeps all.
    """
    if not keep or keep < 0:
        return
    older = [number for number in _steps(folder) if number < step]
    for number in older[: max(len(older) - (keep - 1), 0)]:
        # Its manifest goes first, so that a half-deleted checkpoint counts as incomplete.
        (folder_of(folder, number) / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(folder_of(folder, number), ignore_errors=True)


def newest_complete(trainer: Mapping) -> tuple[int | None, str | None]:
    """Return the step from which `resume_mode=auto` continues, and why that is not the latest checkpoint, if so.

    The step is None where verl starts anew or the configuration names the checkpoint. A checkpoint without a manifest,
    as version 0.1 and verl itself write them, counts as complete.

    Args:
        trainer: the block of the configuration.

    Raises:
        ValueError: the latest checkpoint is incomplete, and there is no other.
    """
    folder = Path(trainer["default_local_dir"])
    tracker = folder / TRACKER
    if trainer["resume_mode"] != "auto" or not tracker.is_file():
        return None, None
    named = tracker.read_text().strip()
    if named.isdigit():
        fault = _fault(folder_of(folder, int(named)))
        what, before = f"{folder_of(folder, int(named))} is incomplete: {fault}", int(named)
    else:
        fault = f"it says {named!r}"
        what, before = f"{tracker} should hold the number of a step, and {fault}", max(_steps(folder), default=0) + 1
    if fault is None:
        return int(named), None
    complete = [step for step in _steps(folder) if step < before and _is_complete(folder_of(folder, step))]
    if complete:
        return complete[-1], f"{what}. The run goes on from global_step_{complete[-1]}, the newest complete checkpoint."
    if not named.isdigit() or folder_of(folder, int(named)).is_dir():
        raise ValueError(
            f"{what}. There is no other complete checkpoint to continue from. Put the file back, or start the run anew "
            f"by moving {folder} away."
        )
    # A checkpoint without a folder was deleted on purpose.
    return None, None


def choose_complete(trainer: Mapping) -> None:
    """Make verl resume from the newest complete checkpoint."""
    step, sentence = newest_complete(trainer)
    if sentence and step is not None:
        logger.warning("%s", sentence)
        commit(Path(trainer["default_local_dir"]), step)


def _is_complete(checkpoint: Path) -> bool:
    return (checkpoint / MANIFEST).is_file() and _fault(checkpoint) is None


def _fault(checkpoint: Path) -> str | None:
    """Return a reason why a checkpoint is incomplete, None if it is complete."""
    if not checkpoint.is_dir():
        return "it is not there"
    if not (checkpoint / MANIFEST).is_file():
        return None
    try:
        sizes = json.loads((checkpoint / MANIFEST).read_text())
    except ValueError:
        return f"{MANIFEST} is cut off"
    for name, size in sizes.items():
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} of {size} bytes"
    return None


def _steps(folder: Path) -> list[int]:
    """Return the steps that have a checkpoint, complete or not, in ascending order."""
    names = (path.name.removeprefix("global_step_") for path in folder.glob("global_step_*"))
    return sorted(int(name) for name in names if name.isdigit())
