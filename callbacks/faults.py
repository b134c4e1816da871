"""What goes wrong in a step, written down with the samples that it had."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer

from callbacks.records import StepRecords
from callbacks.steps import StepCallback
from emu2_lit.ranks import data_place, gathered


class FaultCallback(StepCallback):
    """Base of the callbacks that write to `faults.jsonl`: {"step", "fault", figures, "samples"}, samples as
    [source, id] of all ranks.

    Args:
        path: of the file; None writes nothing.
    """

    def __init__(self, path: str | Path | None = None):
        self.records = StepRecords(path) if path else None
        self.micro_batches: list[list[list[str]]] = []  # of the present window: the samples of each

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self.micro_batches = []
        if self.records and trainer.is_global_zero:
            self.records.rewind(trainer.global_step)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        ids = batch.get("sample_ids", ())
        sources = batch.get("sources", [""] * len(ids))
        self.micro_batches.append([list(pair) for pair in zip(sources, ids, strict=True)])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        completed = trainer.global_step > self._last_step
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if completed:
            self.micro_batches = []

    def note(self, trainer: Trainer, step: int, fault: str, samples: Iterable[list[str]], **figures: Any) -> list:
        """Write a fault down; every rank must call it. Returns the samples of all ranks."""
        everyone = self.everyones(trainer, samples)
        if self.records and trainer.is_global_zero:
            figures = {name: plain(value) for name, value in figures.items()}
            self.records.append([{"step": step, "fault": fault, **figures, "samples": everyone}])
        return everyone

    def everyones(self, trainer: Trainer, samples: Iterable[list[str]]) -> list:
        """The samples of all ranks; every rank must call it."""
        return gathered(list(samples) if data_place(trainer).leads else [])

    def totals(self) -> dict[str, int]:
        """Figures for the summary."""
        return {}


def plain(value: Any) -> Any:
    """JSON has no word for numbers that are not finite."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def listed(samples: list[list[str]], shown: int = 5) -> str:
    """Samples for a message."""
    more = f" and {len(samples) - shown} more" if len(samples) > shown else ""
    return ", ".join(f"{source}/{id}" if source else id for source, id in samples[:shown]) + more
