"""Loaders: windows of micro-batches for training, with the target counts of their step; validation."""

import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.synchronize import Event
from multiprocessing.util import Finalize
from typing import Any

import torch
from torch.utils.data import DataLoader

from datamodules.budget import Budget, Skipped
from datamodules.collate import Collator, target_counts
from datamodules.dataset import SampleDataset
from datamodules.split import Split, StepBatches, TypedSplit
from emu2_lit.errors import UserError
from emu2_lit.ranks import all_reduced, gathered
from emu2_lit.signals import shielded


class _ShieldedLoader(DataLoader):
    """Its workers, and whatever starts them, survive a scheduler's warning."""

    def __iter__(self) -> Iterator[Any]:
        with shielded():
            return super().__iter__()


def batches(dataset: SampleDataset, sampler: Iterable[list[int]], collate: Collator, workers: int) -> DataLoader:
    """A torch DataLoader that leaves the process's own random generator alone."""
    leaving = multiprocessing.Event()
    Finalize(None, leaving.set, exitpriority=1)  # Python then terminates its daemons, the workers, and waits for them
    return _ShieldedLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        worker_init_fn=partial(_leave_signals_to_the_main_process, leaving),
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(0),
    )


def _leave_signals_to_the_main_process(leaving: Event, worker: int) -> None:
    """Ctrl-C and schedulers signal the whole group: the main process finishes its step, and needs its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0) if leaving.is_set() else None)


class ValidationLoader:
    """A sized iterable of batches over fixed positions; `budget` makes the one that a pass over them is held to."""

    def __init__(
        self,
        dataset: SampleDataset,
        sampler: list[list[int]],
        collate: Collator,
        budget: Callable[[], Budget],
        workers: int = 0,
    ):
        self.positions, self.budget = sampler, budget
        self.loader = batches(dataset, sampler, collate, workers)

    def __len__(self) -> int:
        return len(self.positions)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        budget = self.budget()
        for batch in map(_checked, self.loader):
            count([batch], budget)
            yield batch


@dataclass
class WindowLoader:
    """The training loader: a sized iterable of micro-batches that begins wherever the run stands.

    Every batch carries `window`: {"text_targets", "visual_targets", "micro_batches", "step", "micro_batch", "type"};
    the target counts are those of the whole optimizer step, over all ranks, known before its first backward; the
    type is that of the whole step's data, None where it has none or several.

    Attributes:
        steps: optimizer steps of one pass; `len` is `steps * accumulation`, which Lightning must see: of a
            loader
            without length it fetches one batch ahead of what it has trained.
        begin: gives (global step, samples consumed of each type) when an iteration starts; all state is there.
        budget: counts bad samples over all ranks and ends the run, on every rank, when a source has too many.
    """

    dataset: SampleDataset
    collate: Collator
    split: Split | TypedSplit
    steps: int
    begin: Callable[[], tuple[int, Sequence[int]]]
    budget: Budget
    workers: int = 0

    def __len__(self) -> int:
        return self.steps * self.split.accumulation

    def __iter__(self) -> Iterator[dict[str, Any]]:
        first_step, consumed = self.begin()
        steps = self.steps - first_step % self.steps
        sampler = StepBatches(self.split, consumed, steps, first_step)
        source = map(_checked, batches(self.dataset, sampler, self.collate, self.workers))
        for step in range(first_step, first_step + steps):
            window = [next(source) for _ in range(self.split.accumulation)]
            text_targets, visual_targets = count(window, self.budget)
            for place, batch in enumerate(window):
                batch["window"] = {
                    "text_targets": text_targets,
                    "visual_targets": visual_targets,
                    "micro_batches": len(window),
                    "step": step,
                    "micro_batch": place,
                    "type": self.split.type_of(step),
                }
                yield batch

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the state is the data module's counter. Lightning warns where the method is absent."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


def count(window: list[dict[str, Any]], budget: Budget) -> tuple[int, int]:
    """Text and visual targets of the window over all ranks; the same exchange feeds the budget.

    Raises UserError, on every rank, when a source is over the budget.
    """
    names = list(budget.sizes)
    drawn, bad = _first_epoch_counts(window)
    text, visual = (sum(column) for column in zip(*map(target_counts, window), strict=True))
    text, visual, *counts = all_reduced([text, visual, *(drawn[n] for n in names), *(bad[n] for n in names)])
    budget.add(
        drawn=dict(zip(names, counts[: len(names)], strict=True)),
        bad=dict(zip(names, counts[len(names) :], strict=True)),
    )
    budget.remember([Skipped(**entry) for batch in window for entry in batch["skipped"]])
    for name in budget.exceeded():
        raise budget.error(name, gathered(budget.reasons[name]))
    return text, visual


def _first_epoch_counts(window: list[dict[str, Any]]) -> tuple[Counter[str], Counter[str]]:
    """Samples drawn and bad by source, in the first epoch of their source: there no sample occurs twice."""
    drawn, bad = Counter[str](), Counter[str]()
    for batch in window:
        first = [epoch == 0 for epoch in batch["epochs"]]
        drawn.update(source for source, counts in zip(batch["sources"], first, strict=True) if counts)
        bad.update(entry["source"] for entry in batch["skipped"] if entry["epoch"] == 0)
    return drawn, bad


def _checked(batch: dict[str, Any] | UserError) -> dict[str, Any]:
    if isinstance(batch, UserError):
        raise batch
    return batch
