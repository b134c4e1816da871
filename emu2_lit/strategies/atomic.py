"""Checkpoints that are whole or not there: written beside the target, synced to disk, then renamed."""

import contextlib
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from emu2_lit.errors import UserError
from emu2_lit.strategies.engine_files import read_about_engine
from emu2_lit.strategies.publish import sync_file
from emu2_lit.strategies.sharded_files import read_whole


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
        sync_file(path.parent)

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Whole, also where ranks wrote it in pieces. Raises UserError where it is no checkpoint, or damaged, or
        DeepSpeed's."""
        if about := read_about_engine(Path(path)):
            raise UserError(
                f"{path}: DeepSpeed wrote this checkpoint, and only trainer.strategy=deepspeed_stage_{about['stage']} "
                "goes on from it; or export it, and start from the result"
            )
        try:
            if Path(path).is_dir():
                checkpoint = read_whole(Path(path))
            else:
                checkpoint = super().load_checkpoint(path, *args, **kwargs)
        except pickle.UnpicklingError as error:  # its text advises to load the file unsafely
            raise _no_checkpoint(path, "it is damaged, or a file of another kind") from error
        except (OSError, EOFError, RuntimeError, ValueError) as error:
            raise _no_checkpoint(path, str(error).splitlines()[0]) from error
        if not isinstance(checkpoint, dict) or "global_step" not in checkpoint:
            raise _no_checkpoint(path, "it holds something else")
        return checkpoint


def _no_checkpoint(path: str | Path, reason: str) -> UserError:
    return UserError(
        f"{path}: not a checkpoint to go on from ({reason}). Delete it, so that the run goes on from the one before, "
        "or name another with resume=PATH"
    )
