"""Loaders: windows of micro-batches for training, with the target counts of their step; validation."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from datamodules.budget import Budget, Skipped
from datamodules.collate import Collator, target_counts
from datamodules.dataset import SampleDataset
from datamodules.packing import PackedBatches, PackedOrder
from datamodules.split import Split, StepBatches, TypedSplit
from datamodules.workers import Batches
from emu2_lit.errors import UserError
from emu2_lit.ranks import all_reduced, gathered


class ValidationLoader:
    """A sized iterable of batches over fixed positions; `budget` makes the one that a pass over them is held to."""

    def __init__(
        self,
        dataset: SampleDataset,
        sampler: list[list[int]],
        collate: Collator,
        budget: Callable[[], Budget],
        workers: int = 0,
        leads: bool = True,
    ):
        self.positions, self.budget, self.leads = sampler, budget, leads
        self.loader = Batches(dataset, sampler, collate, workers)

    def __len__(self) -> int:
        return len(self.positions)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        budget = self.budget()
        for batch in map(_checked, self.loader):
            count([batch], budget, self.leads)
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
        packed: what a row holds, where several samples share one; `split` and `begin` then count rows.
        leads: see `DataPlace`.
    """

    dataset: SampleDataset
    collate: Collator
    split: Split | TypedSplit
    steps: int
    begin: Callable[[], tuple[int, Sequence[int]]]
    budget: Budget
    workers: int = 0
    packed: PackedOrder | None = None
    leads: bool = True

    def __len__(self) -> int:
        return self.steps * self.split.accumulation

    def __iter__(self) -> Iterator[dict[str, Any]]:
        first_step, consumed = self.begin()
        steps = self.steps - first_step % self.steps
        sampler = StepBatches(self.split, consumed, steps, first_step)
        if self.packed:
            sampler = PackedBatches(sampler, self.packed)
        source = map(_checked, Batches(self.dataset, sampler, self.collate, self.workers))
        for step in range(first_step, first_step + steps):
            window = [next(source) for _ in range(self.split.accumulation)]
            text_targets, visual_targets = count(window, self.budget, self.leads)
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


def count(window: list[dict[str, Any]], budget: Budget, leads: bool) -> tuple[int, int]:
    """Text and visual targets of the window over all ranks; the same exchange feeds the budget.

    Of ranks that have the same window only the one that `leads` adds to the sums.

    Raises UserError, on every rank, when a source is over the budget.
    """
    window = window if leads else []
    names, skipped = list(budget.sizes), [Skipped(**entry) for batch in window for entry in batch["skipped"]]
    drawn = _first_draws(window)
    text, visual = (sum(column) for column in zip((0, 0), *map(target_counts, window), strict=True))
    text, visual, bad, *counts = all_reduced([text, visual, len(skipped), *(drawn[name] for name in names)])
    budget.add(dict(zip(names, counts, strict=True)), gathered(skipped) if bad else ())
    for name in budget.exceeded():
        raise budget.error(name)
    return text, visual


def _first_draws(window: list[dict[str, Any]]) -> Counter[str]:
    """Samples drawn by source, in the first epoch of their source: there no sample occurs twice."""
    draws = [pair for batch in window for pair in zip(batch["sources"], batch["epochs"], strict=True)]
    return Counter(source for source, epoch in draws if epoch == 0)


def _checked(batch: dict[str, Any] | UserError) -> dict[str, Any]:
    if isinstance(batch, UserError):
        raise batch
    return batch
