"""Where a run writes: ``<root>/version_N``, its checkpoints and its logs."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from ...datasets.errors import DataError
from ...heads.checkpoint import read_checkpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are whole or absent, and that run nothing when they are read.

    A checkpoint is written beside its target, flushed to the disk and then renamed, so a process
    that is killed while it writes leaves the checkpoint before intact. Reading never unpickles
    more than tensors and plain containers, and refuses classes that nobody trusts.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write ``checkpoint`` to ``path`` atomically."""
        if storage_options is not None:
            raise TypeError("AtomicCheckpointIO takes no storage_options")
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = lambda storage, _: storage,
        weights_only: Any = None,  # noqa: ARG002
    ) -> dict[str, Any]:
        """Read a checkpoint as plain data, whatever the caller asks; see ``read_checkpoint``.

        Raises:
            CheckpointError: There is no such file, it is not a whole checkpoint of plain data, or
                it names a class that is not trusted.
        """
        return read_checkpoint(path, map_location)


def run_loggers(root: Path) -> list[Logger]:
    """TensorBoard and CSV logs in the same new ``<root>/version_N``."""
    place = {"save_dir": root, "name": "", "version": next_version(root)}
    return [TensorBoardLogger(**place), CSVLogger(**place)]


def next_version(root: Path) -> int:
    """One more than the highest N of ``<root>/version_N``."""
    taken = [path.name.removeprefix("version_") for path in root.glob("version_*")]
    return max((int(number) for number in taken if number.isdecimal()), default=-1) + 1


def last_checkpoint(root: Path) -> Path:
    """The newest ``last.ckpt`` of all runs under ``root``.

    Raises:
        DataError: there is none.
    """
    found = list(root.glob("version_*/checkpoints/last.ckpt"))
    if not found:
        raise DataError(
            f"--ckpt_path=last: no last.ckpt under {root}. Train first, or give the path of a "
            "checkpoint."
        )
    return max(found, key=lambda path: path.stat().st_mtime)
