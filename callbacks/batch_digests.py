"""What was consumed, in which order: one line for each optimizer step of each rank, in the run folder."""

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from lightning import LightningModule, Trainer

from callbacks.records import json_line
from callbacks.steps import StepCallback
from emu2_lit.errors import UserError
from emu2_lit.ranks import data_place


class Consumed(NamedTuple):
    """A sample that a completed step has used. `position` is that in the order of its `type`; `digest` is of what it
    taught."""

    type: int
    position: int
    source: str
    epoch: int
    id: str
    digest: str


class BatchDigests(StepCallback):
    """Appends the samples of every completed step to `rank_<r>.jsonl`: {"step", "ranks", "batches"}, a batch for each
    micro-batch, its samples as in `Consumed`.

    Batches count where they are consumed, not where they are loaded; what a window that was never finished held is
    not written. The files only grow: a resumed run writes {"resumed": step} into all of them, which takes back what
    later steps had written. Batches must carry `positions` and `digests`, as those of the kit's data modules do.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._window: list[list[list[Any]]] = []
        self._file: TextIO | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._window, self._place = [], data_place(trainer)
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in self.folder.glob("rank_*.jsonl"):
                with open(path, "a", encoding="utf-8") as file:  # a crash may have left half a line
                    file.write("\n" + json_line({"resumed": trainer.global_step}))
        trainer.strategy.barrier("BatchDigests")
        if self._place.leads:
            self._file = open(self.folder / f"rank_{self._place.rank}.jsonl", "a", encoding="utf-8")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        keys = ((key if isinstance(key, tuple) else (0, key)) for key in batch["positions"])
        columns = (batch[name] for name in ("sources", "epochs", "sample_ids", "digests"))
        self._window.append([[*key, *rest] for key, *rest in zip(keys, *columns, strict=True)])
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_step_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        window, self._window = self._window, []
        if self._file:
            self._file.write(json_line({"step": trainer.global_step, "ranks": self._place.size, "batches": window}))
            self._file.flush()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """A checkpoint survives a power cut, so must what its steps consumed."""
        if self._file:
            os.fsync(self._file.fileno())

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._file:
            self._file.close()
            self._file = None


def consumed_samples(folder: str | Path) -> Iterator[tuple[int, Consumed]]:
    """(step, sample) in the global order, from what all ranks of a run have written to `folder`.

    Steps that not every rank has completed are left out. Raises UserError where there is nothing to read.
    """
    steps: dict[int, list[str]] = defaultdict(list)
    paths = list(Path(folder).glob("rank_*.jsonl"))
    for path in paths:
        for step, line in _lines(path).items():
            steps[step].append(line)
    if not steps:
        raise UserError(f"{folder}: tells of no consumed batch; was callbacks.batch_digests off, or no step completed?")
    for step in sorted(steps):
        records = [json.loads(line) for line in steps[step]]
        if len(records) == records[0]["ranks"]:
            samples = [Consumed(*one) for record in records for batch in record["batches"] for one in batch]
            yield from ((step, sample) for sample in sorted(samples))


def _lines(path: Path) -> dict[int, str]:
    """The lines of a rank that stand, by step; they stay text, for there may be millions of samples."""
    standing: dict[int, str] = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:  # empty, or cut off by a crash
                continue
            if "resumed" in record:
                standing = {step: line for step, line in standing.items() if step <= record["resumed"]}
            else:
                standing[record["step"]] = line
    return standing
