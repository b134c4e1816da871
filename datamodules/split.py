"""Which positions of the order a rank's micro-batch holds: arithmetic, no state."""

from collections.abc import Iterator
from dataclasses import dataclass


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

    def once_over(self, count: int) -> list[list[int]]:
        """This rank's batches of the first `count` positions: as many on each rank, the last may go beyond."""
        size = self.global_batch_size
        return [self.positions(first, 0) for first in range(0, count, size)]


@dataclass(frozen=True)
class StepBatches:
    """The batch sampler of `steps` optimizer steps whose samples begin at position `first`."""

    split: Split
    first: int
    steps: int

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.steps):
            for micro_batch in range(self.split.accumulation):
                yield self.split.positions(self.first + step * self.split.global_batch_size, micro_batch)
