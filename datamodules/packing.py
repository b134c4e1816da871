"""Which samples share a row: a pure function of the order and of their lengths, planned window by window."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from datamodules.order import permutation
from emu2_lit.samples.seeding import hash_seed

WINDOW = 1024  # samples that are packed together: enough to leave almost no padding


class PackedOrder:
    """Maps a row (0, 1, 2, ... without end) to the positions of the order that it holds, at most `capacity` tokens.

    Windows of as many consecutive positions, at most one pass over the data, are packed each by itself, so a sample is
    learned within a window of where the order has it. The rows of a window come in an order drawn from the seed: the
    full rows of long samples would else come first.

    Args:
        order: maps a position to (source, index, epoch).
        lengths: of each source, the tokens of its samples.
        capacity: tokens of a row at most.
    """

    def __init__(
        self, order: Callable[[int], tuple[int, int, int]], lengths: Sequence[np.ndarray], capacity: int, seed: int = 0
    ):
        self.order, self.lengths, self.capacity, self.seed = order, lengths, capacity, seed
        self.window = min(WINDOW, sum(map(len, lengths)))
        self._ends: list[int] = []  # rows of the windows up to each
        self._planned: tuple[int, list[list[int]]] = (-1, [])

    def __call__(self, row: int) -> list[int]:
        while not self._ends or row >= self._ends[-1]:
            before = self._ends[-1] if self._ends else 0
            self._ends.append(before + len(self._rows(len(self._ends))))
        number = bisect_right(self._ends, row)
        return self._rows(number)[row - (self._ends[number - 1] if number else 0)]

    def rows_of(self, positions: int) -> int:
        """Rows that the first `positions` take; those of a window that is only begun in proportion."""
        whole, rest = divmod(positions, self.window)
        count = sum(len(self._rows(number)) for number in range(whole))
        return count + (ceil(len(self._rows(whole)) * rest / self.window) if rest else 0)

    def _rows(self, number: int) -> list[list[int]]:
        """The rows of a window; the last one asked for is kept."""
        if self._planned[0] != number:
            first = number * self.window
            drawn = map(self.order, range(first, first + self.window))
            packed = pack([int(self.lengths[source][index]) for source, index, _ in drawn], self.capacity)
            shuffled = permutation(hash_seed(self.seed, "rows", number), len(packed))
            self._planned = number, [[first + place for place in packed[row]] for row in shuffled]
        return self._planned[1]


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Places 0, 1, ... in rows whose lengths sum to at most `capacity`: the longest first, each into the fullest row
    that has room (best fit decreasing). A length beyond `capacity` has a row of its own."""
    rows: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # what rows have left, and which they are
    for place in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        found = bisect_left(rooms, (lengths[place], -1))
        room, row = rooms.pop(found) if found < len(rooms) else (capacity, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(place)
        insort(rooms, (room - lengths[place], row))
    return [sorted(row) for row in rows]


@dataclass(frozen=True)
class PackedBatches:
    """A batch sampler: rows in the place of their numbers."""

    batches: Iterable[list[int]]
    order: PackedOrder

    def __iter__(self) -> Iterator[list[list[int]]]:
        for batch in self.batches:
            yield [self.order(row) for row in batch]
