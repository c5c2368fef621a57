"""Crash-safe saving of a trainer: a checkpoint is named once its step is logged, and only then are older ones deleted.

`runs/checkpoints.py` says why and how this looks on disk.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig

from verl.sdpo.runs import checkpoints, identity


class CheckpointSaver:
    """Decides when a checkpoint is complete, which one is named as the latest, and which ones are deleted.

    Args:
        config: the whole Hydra tree, before the trainer changes any of it.
    """

    def __init__(self, config: DictConfig):
        self._composed = identity.plain(config)
        self._root = Path(config.trainer.default_local_dir)
        self._kept = config.trainer.max_actor_ckpt_to_keep
        # Step of the checkpoint that is complete, but not yet named.
        self._unnamed: int | None = None

    def folder(self, step: int) -> Path:
        return checkpoints.folder_of(self._root, step)

    @contextmanager
    def saving(self, step: int) -> Iterator[Path]:
        """Yield the folder into which the checkpoint of a step is to be written; it is complete at the end.

        Raises:
            RuntimeError: it could not be written; says how much room the disk has.
        """
        folder = self.folder(step)
        try:
            # An earlier attempt at this step may have left it.
            (folder / checkpoints.MANIFEST).unlink(missing_ok=True)
            identity.record(self._composed, folder)
            yield folder
            checkpoints.write_manifest(folder)
        except Exception as error:
            # The folder itself may not exist.
            disk = next(path for path in folder.parents if path.exists())
            raise RuntimeError(
                f"The checkpoint of step {step} could not be saved in {folder.parent}, where "
                f"{shutil.disk_usage(disk).free / 2**20:.0f} MiB are free. If that is too little, make "
                "room; then start the run again: it goes on from the checkpoint before."
            ) from error
        self._unnamed = step

    def name_saved(self) -> None:
        """Name the checkpoint saved last as the latest, now that its step is logged, and delete old ones."""
        if self._unnamed is not None:
            checkpoints.commit(self._root, self._unnamed)
            checkpoints.delete_old(self._root, self._unnamed, self._kept)
            self._unnamed = None

    def go_back_to(self, step: int) -> None:
        """Name an older checkpoint as the latest; one that is not named yet never will be."""
        self._unnamed = None
        checkpoints.commit(self._root, step)
