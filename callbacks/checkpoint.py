"""Checkpoints by step: when they are written, which are kept, which is the last."""

import re
import zipfile
from pathlib import Path

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from callbacks.steps import StepCallback

_NAME = re.compile(r"step=(\d+)\.ckpt")
_FOLDER_MARKERS = ("meta.pt", "latest")  # what Lightning's sharded and DeepSpeed's checkpoints write at the very end


class StepCheckpoint(StepCallback, Checkpoint):
    """Writes `step=0000500.ckpt` every `every_n_steps` completed optimizer steps and after the last one, also when
    the run is stopped early, and keeps the newest `keep_last`.

    Lightning's ModelCheckpoint does not know, once resumed, which step it saved last, and saves that one again after
    the first micro-batch, in the middle of an accumulation window; it also forgets older files. Here a file is never
    written twice, only between windows, and what is kept is decided by what lies in the folder. There is no separate
    `last`, which would have to be overwritten: `find_last_checkpoint` goes by the step.
    """

    def __init__(self, folder: str | Path, every_n_steps: int, keep_last: int = 2):
        self.folder = Path(folder)
        self.every_n_steps = every_n_steps
        self.keep_last = keep_last

    def on_step_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning calls checkpoint callbacks last, so the state of all others includes this step."""
        step = trainer.global_step
        due = step % self.every_n_steps == 0 or step == trainer.max_steps or trainer.should_stop
        if due and not trainer.fast_dev_run:
            trainer.save_checkpoint(self.folder / f"step={step:07d}.ckpt")
            self._prune(trainer)

    def _prune(self, trainer: Trainer) -> None:
        """Remove older ones, and those of later steps: a run that went back to an earlier step has left them."""
        by_step = _checkpoints(self.folder)
        past = sorted((step for step in by_step if step <= trainer.global_step), reverse=True)
        for step in set(by_step) - set(past[: self.keep_last]):
            trainer.strategy.remove_checkpoint(by_step[step])


def find_last_checkpoint(folder: str | Path) -> Path | None:
    """The complete checkpoint of the highest step in `folder`; None where there is none."""
    complete = {step: path for step, path in _checkpoints(Path(folder)).items() if _is_complete(path)}
    return complete[max(complete)] if complete else None


def _checkpoints(folder: Path) -> dict[int, Path]:
    matches = ((_NAME.fullmatch(path.name), path) for path in folder.glob("*.ckpt"))
    return {int(match.group(1)): path for match, path in matches if match}


def _is_complete(path: Path) -> bool:
    """A file that torch.save wrote is a zip archive, whose directory comes last: a torn one has none."""
    if path.is_dir():
        return any((path / marker).exists() for marker in _FOLDER_MARKERS)
    return zipfile.is_zipfile(path)
