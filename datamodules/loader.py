"""Batches by arithmetic, and windows: the micro-batches of one optimizer step with the step's target counts."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

from datamodules.collate import Collator, target_counts
from datamodules.dataset import SampleDataset
from datamodules.ledger import Budget, Skipped
from emu2_lit.errors import UserError
from emu2_lit.samples.seeding import hash_seed


@dataclass(frozen=True)
class Split:
    """How the samples of one optimizer step are dealt out; which samples they are does not depend on it."""

    micro_batch_size: int
    accumulation: int = 1
    world_size: int = 1
    rank: int = 0

    @property
    def global_batch_size(self) -> int:
        return self.micro_batch_size * self.accumulation * self.world_size

    def positions(self, first: int, micro_batch: int) -> list[int]:
        """This rank's positions in micro-batch `micro_batch` of the step whose samples begin at `first`."""
        start = first + (micro_batch * self.world_size + self.rank) * self.micro_batch_size
        return list(range(start, start + self.micro_batch_size))


class WindowLoader:
    """The training loader: a sized iterable of micro-batches that begins wherever the run stands.

    Every batch carries `window`: {"text_targets", "visual_targets", "micro_batches", "step", "micro_batch"}; the
    target counts are those of the whole optimizer step, over all ranks, known before its first backward.

    Args:
        steps: optimizer steps of one pass; `len` is `steps * accumulation`, which Lightning must see: of a loader
            without length it fetches one batch ahead of what it has trained.
        begin: gives (global step, samples consumed) when an iteration starts; all state is there.
    """

    def __init__(
        self,
        dataset: SampleDataset,
        collate: Collator,
        split: Split,
        steps: int,
        begin: Callable[[], tuple[int, int]],
        budget: Budget,
        workers: int = 0,
    ):
        self.dataset, self.collate, self.split, self.steps = dataset, collate, split, steps
        self.begin, self.budget, self.workers = begin, budget, workers

    def __len__(self) -> int:
        return self.steps * self.split.accumulation

    def __iter__(self) -> Iterator[dict[str, Any]]:
        first_step, consumed = self.begin()
        steps = self.steps - first_step % self.steps
        batches = iter(make_loader(self.dataset, self._positions(consumed, steps), self.collate, self.workers))
        for step in range(first_step, first_step + steps):
            window = [checked(next(batches)) for _ in range(self.split.accumulation)]
            text_targets, visual_targets = self._count(window)
            for place, batch in enumerate(window):
                batch["window"] = {
                    "text_targets": text_targets,
                    "visual_targets": visual_targets,
                    "micro_batches": len(window),
                    "step": step,
                    "micro_batch": place,
                }
                yield batch

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the data state is the data module's counters. Lightning warns about loaders without the method."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""

    def _positions(self, consumed: int, steps: int) -> list[list[int]] | Iterator[list[int]]:
        size = self.split.global_batch_size
        return _Lazy(
            steps * self.split.accumulation,
            lambda i: self.split.positions(consumed + i // self.split.accumulation * size, i % self.split.accumulation),
        )

    def _count(self, window: list[dict[str, Any]]) -> tuple[int, int]:
        """Targets of the window over all ranks; bad samples go to the budget, which may end the run on every rank."""
        names = list(self.budget.sizes)
        drawn, bad = _first_epoch_counts(window)
        targets = [sum(column) for column in zip(*map(target_counts, window), strict=True)]
        counts = all_reduced(targets + [drawn[name] for name in names] + [bad[name] for name in names])
        self.budget.add(dict(zip(names, counts[2:], strict=False)), dict(zip(names, counts[2 + len(names) :], strict=True)))
        self.budget.remember([Skipped(**entry) for batch in window for entry in batch["skipped"]])
        for name in self.budget.exceeded():
            raise self.budget.error(name, gathered(self.budget.reasons[name]))
        return counts[0], counts[1]
