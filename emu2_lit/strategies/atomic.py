"""Checkpoints that are whole or not there: written beside the target, synced to disk, then renamed."""

import contextlib
import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from emu2_lit.errors import UserError


class AtomicCheckpointIO(TorchCheckpointIO):
    """Single-file checkpoints. Lightning's own goes through the temporary folder and copies where that is another
    file system, which leaves torn files behind a crash."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Raises UserError where the disk is full or the folder cannot be written; the previous file stays."""
        path = Path(path)
        partial = path.with_name(f".{path.name}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(partial, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
            with contextlib.suppress(OSError):
                partial.unlink()
            raise UserError(f"{path}: cannot write the checkpoint ({error}); the previous one stands") from error
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
