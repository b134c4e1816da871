"""Checkpoints by step: when they are written, which are kept, which is the last."""

import json
import re
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from callbacks.records import write_text
from callbacks.steps import StepCallback
from emu2_lit.strategies import clean, discard, is_complete, publish, tensor_bytes

_NAME = re.compile(r"step=(\d+)\.ckpt")
_BEST = "best.json"
_LOWER = {"loss", "fid", "kid"}  # words in the names of figures that are better when lower


class StepCheckpoint(StepCallback, Checkpoint):
    """Writes `step=0000500.ckpt` every `every_n_steps` completed optimizer steps and after the last one, also when
    the run is stopped early, and keeps the newest `keep_last`.

    Lightning's ModelCheckpoint does not know, once resumed, which step it saved last, and saves that one again after
    the first micro-batch, in the middle of an accumulation window; it also forgets older files. Here a file is never
    written twice, only between windows, and what is kept is decided by what lies in the folder. It appears whole or
    not at all (`emu2_lit.strategies.publish`), whether the strategy writes a file or a folder. `last` is a link, for
    people and scripts: `find_last_checkpoint` goes by the step.

    Args:
        keep_best: a logged figure; the checkpoint that scored best by it at a validation is kept as well, and named
            with its score in `best.json`. Losses, FID and KID are better when lower. A checkpoint is
            then written before every validation.
        about: what to tell about the run in every checkpoint (plain values; `emu2_lit.strategies.read_about`).
    """

    def __init__(
        self,
        folder: str | Path,
        every_n_steps: int,
        keep_last: int = 2,
        keep_best: str | None = None,
        about: dict[str, Any] | None = None,
    ):
        self.folder = Path(folder)
        self.every_n_steps = every_n_steps
        self.keep_last = keep_last
        self.keep_best = keep_best
        self.about = about or {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if trainer.is_global_zero:
            clean(self.folder)

    def on_step_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning calls checkpoint callbacks last, so the state of all others includes this step."""
        step = trainer.global_step
        due = step % self.every_n_steps == 0 or step == trainer.max_steps or trainer.should_stop
        if (due or self._is_validated(trainer)) and not trainer.fast_dev_run:
            self._save(trainer, self.folder / f"step={step:07d}.ckpt")
            if trainer.is_global_zero:
                self._prune(trainer.global_step)

    def _save(self, trainer: Trainer, path: Path) -> None:
        """As `trainer.save_checkpoint`, whose barrier would wait for ever where only one rank cannot write."""
        checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        checkpoint["about"] = self.about
        publish(
            path,
            write=lambda staged: trainer.strategy.save_checkpoint(checkpoint, staged),
            needed=tensor_bytes(checkpoint),
            about=self.about,
        )

    def _is_validated(self, trainer: Trainer) -> bool:
        """Whether a validation follows this step, and its checkpoint may be the best one."""
        every, passed = trainer.val_check_batch, trainer.global_step * trainer.accumulate_grad_batches
        return bool(self.keep_best) and isinstance(every, int) and passed % every == 0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Mark the checkpoint of this step, if it scores best."""
        score = trainer.callback_metrics.get(self.keep_best) if self.keep_best else None
        if score is None or trainer.fast_dev_run or trainer.global_step not in _checkpoints(self.folder):
            return
        sign, best = (-1 if _LOWER & {*re.split("[/_]", self.keep_best)} else 1), self.best()
        known = best is not None and best["step"] < trainer.global_step and best["figure"] == self.keep_best
        if trainer.is_global_zero and not (known and sign * best["score"] >= sign * float(score)):
            record = {"figure": self.keep_best, "score": float(score), "step": trainer.global_step}
            write_text(self.folder / _BEST, json.dumps(record) + "\n")

    def best(self) -> dict[str, Any] | None:
        """Figure, score and step of the best checkpoint that lies in the folder."""
        try:
            record = json.loads((self.folder / _BEST).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return record if record["step"] in _checkpoints(self.folder) else None

    def _prune(self, step: int) -> None:
        """Remove older ones, and those of later steps: a run that went back to an earlier step has left them."""
        by_step, best = _checkpoints(self.folder), self.best() if self.keep_best else None
        past = sorted((saved for saved in by_step if saved <= step), reverse=True)
        kept = {*past[: self.keep_last], *({best["step"]} & set(past) if best else ())}
        for saved in set(by_step) - kept:
            discard(by_step[saved])


def find_last_checkpoint(folder: str | Path) -> Path | None:
    """The complete checkpoint of the highest step in `folder`; None where there is none."""
    complete = {step: path for step, path in _checkpoints(Path(folder)).items() if is_complete(path)}
    return complete[max(complete)] if complete else None


def _checkpoints(folder: Path) -> dict[int, Path]:
    matches = ((_NAME.fullmatch(path.name), path) for path in folder.glob("*.ckpt"))
    return {int(match.group(1)): path for match, path in matches if match}
