"""Which positions of the order a rank's micro-batch holds: arithmetic, no state."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count, takewhile
from typing import Any

from emu2_lit.errors import UserError


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

    def drawn(self, first_step: int, last_step: int) -> tuple[int, ...]:
        """Samples that the steps from `first_step` to before `last_step` use."""
        return ((last_step - first_step) * self.global_batch_size,)

    def step(self, number: int, consumed: Sequence[int]) -> list[list[int]]:
        """This rank's micro-batches of step `number`, when `consumed` samples of the order are used up."""
        return [self.positions(consumed[0], micro_batch) for micro_batch in range(self.accumulation)]

    def type_of(self, number: int) -> None:
        """A single stream has no types."""


@dataclass(frozen=True)
class TypedSplit:
    """Steps made of data types, each with an order and a batch size of its own (paper, table 6 and table 9).

    Either every step is of one type, drawn in a fixed schedule, or it holds the batch of every type. The number of
    micro-batches is the same in every step, their size is not; a micro-batch is always of one type.

    Attributes:
        names, batch_sizes: of the types; samples of one step over all ranks.
        draws: one period of the types of steps; None: all of them in every step.
        micro_batch_size: samples of a micro-batch on one rank at most.
    """

    names: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    draws: tuple[int, ...] | None
    micro_batch_size: int
    world_size: int = 1
    rank: int = 0

    @cached_property
    def passes(self) -> tuple[int, ...]:
        """Micro-batches of a step that are of each type, if it is there. Raises UserError where none divides."""
        groups = [self.batch_sizes] if self.draws else [(size,) for size in self.batch_sizes]
        found = [_passes(group, self.micro_batch_size, self.world_size) for group in groups]
        return tuple(found) if len(found) == len(self.names) else tuple(found * len(self.names))

    @property
    def accumulation(self) -> int:
        return self.passes[0] if self.draws else sum(self.passes)

    def types(self, number: int) -> list[int]:
        """The types that step `number` holds."""
        return [self.draws[number % len(self.draws)]] if self.draws else list(range(len(self.names)))

    def type_of(self, number: int) -> str | None:
        """The name of the step's type, where it has only one."""
        types = self.types(number)
        return self.names[types[0]] if len(types) == 1 else None

    def drawn(self, first_step: int, last_step: int) -> tuple[int, ...]:
        """Samples of each type that the steps from `first_step` to before `last_step` use."""
        return tuple(
            size * (self._steps_of(place, last_step) - self._steps_of(place, first_step))
            for place, size in enumerate(self.batch_sizes)
        )

    def _steps_of(self, place: int, steps: int) -> int:
        """How many of the first `steps` steps hold a type."""
        if not self.draws:
            return steps
        periods, rest = divmod(steps, len(self.draws))
        return periods * self.draws.count(place) + self.draws[:rest].count(place)

    def step(self, number: int, consumed: Sequence[int]) -> list[list[tuple[int, int]]]:
        """This rank's micro-batches as (type, position in the type's order)."""
        batches = []
        for place in self.types(number):
            size = self.batch_sizes[place] // (self.passes[place] * self.world_size)
            split = Split(size, self.passes[place], self.world_size, self.rank)
            batches += [[(place, position) for position in batch] for batch in split.step(number, consumed[place:])]
        return batches


def _passes(batch_sizes: Sequence[int], micro_batch_size: int, world_size: int) -> int:
    """The least number of micro-batches into which all of these batches divide over the ranks."""
    for passes in takewhile(lambda passes: passes * world_size <= min(batch_sizes), count(1)):
        ranks = passes * world_size
        if all(size % ranks == 0 and size // ranks <= micro_batch_size for size in batch_sizes):
            return passes
    raise UserError(
        f"data.types: batch_size {', '.join(map(str, batch_sizes))} cannot be dealt to {world_size} device(s) in "
        f"equally many micro-batches of at most data.micro_batch_size={micro_batch_size}: change one of them"
    )


@dataclass(frozen=True)
class StepBatches:
    """The batch sampler of steps `first_step`, ... , when `consumed` samples of each type are used up."""

    split: Split | TypedSplit
    consumed: Sequence[int]
    steps: int
    first_step: int = 0

    def __iter__(self) -> Iterator[list[Any]]:
        for number in range(self.first_step, self.first_step + self.steps):
            drawn = self.split.drawn(self.first_step, number)
            yield from self.split.step(number, [sum(pair) for pair in zip(self.consumed, drawn, strict=True)])
