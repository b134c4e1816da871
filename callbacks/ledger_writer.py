"""Every sample that was skipped, with its reason, in the run folder."""

from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer

from callbacks.records import StepRecords
from callbacks.steps import StepCallback
from emu2_lit.ranks import data_place, gathered


class DataLedger(StepCallback):
    """Writes what the batches carry under `skipped` (source, id, reason, ...) to a JSON-lines file, from all ranks.

    A bad validation sample is written once, with `split: validation`.
    """

    def __init__(self, path: str | Path):
        self.records = StepRecords(path)
        self._pending: list[dict[str, Any]] = []
        self._known: set[tuple[str, str]] = set()  # validation samples in the file

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pending, self._known = [], set()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if trainer.is_global_zero and not trainer.fast_dev_run:
            self._remember(self.records.rewind(trainer.global_step))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._pending += batch.get("skipped", ())
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_step_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._flush(trainer)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        if not trainer.sanity_checking:
            self._pending += [{"split": "validation", **entry} for entry in batch.get("skipped", ())]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._flush(trainer)

    def _flush(self, trainer: Trainer) -> None:
        pending, self._pending = self._pending if data_place(trainer).leads else [], []
        if not trainer.strategy.reduce_boolean_decision(bool(pending), all=False):
            return
        pending = gathered(pending)
        if trainer.is_global_zero:
            fresh = [{"step": trainer.global_step, **entry} for entry in pending if _key(entry) not in self._known]
            self._remember(fresh)
            if not trainer.fast_dev_run:
                self.records.append(fresh)

    def skipped_samples(self) -> int:
        """How many samples the file names, each once; one that is bad is skipped in every epoch."""
        records = self.records.read()
        return len({(r.get("split"), r["source"], r.get("index", r["id"])) for r in records})

    def _remember(self, entries: list[dict[str, Any]]) -> None:
        self._known.update(key for key in map(_key, entries) if key is not None)


def _key(entry: dict[str, Any]) -> tuple[str, str] | None:
    """What a validation sample is known by; a training sample is written each time it is drawn."""
    return (entry["source"], entry["id"]) if entry.get("split") == "validation" else None
