"""The global order of samples as a pure function of (seed, sizes, weights): no state but a position."""

from bisect import bisect_right
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate

import numpy as np

from emu2_lit.samples.seeding import hash_seed

MAX_PERIOD = 10_000


def splitmix64(values: np.ndarray) -> np.ndarray:
    """The SplitMix64 finaliser (Steele et al. 2014) of uint64 values: a fixed, version-free hash."""
    with np.errstate(over="ignore"):
        z = values * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


@lru_cache(maxsize=32)
def permutation(seed: int, size: int) -> np.ndarray:
    """A permutation of range(size), as the order of hashes: it depends on no library's generator."""
    with np.errstate(over="ignore"):
        keys = splitmix64(np.arange(1, size + 1, dtype=np.uint64) + np.uint64(seed))
    return np.argsort(keys, kind="stable")


def integer_shares(weights: list[float]) -> list[int]:
    """Smallest whole-number proportions of `weights` as written (0.7, 0.3 -> 7, 3).

    Proportions that need a period above MAX_PERIOD are rounded to it, each source keeping at least one draw.
    """
    fractions = [Fraction(str(weight)) for weight in weights]
    total = sum(fractions)
    common = np.lcm.reduce([(fraction / total).denominator for fraction in fractions], dtype=object)
    if common <= MAX_PERIOD:
        return [int(fraction / total * common) for fraction in fractions]
    exact = [fraction / total * MAX_PERIOD for fraction in fractions]
    return [max(1, round(share)) for share in exact]


def schedule(shares: list[int]) -> list[int]:
    """One period of the mixture: which source each draw comes from.

    Balinski and Young's quota method: at every draw the count of each source is its exact quota rounded down
    or up.
    """
    period, counts, draws = sum(shares), [0] * len(shares), []
    for drawn in range(1, period + 1):
        below_quota = [i for i, share in enumerate(shares) if counts[i] * period < share * drawn]
        best = max(below_quota, key=lambda i: (Fraction(shares[i], counts[i] + 1), -i))
        counts[best] += 1
        draws.append(best)
    return draws


class GlobalOrder:
    """Maps a global position (0, 1, 2, ... without end) to (source, index in the source, epoch of the
    source).

    Without weights one epoch is a permutation of all sources together. With weights sources alternate in a
    fixed schedule whose counts are within one of the exact proportion at every position, and each source is
    permuted anew whenever it has been used up.
    """

    def __init__(self, sizes: list[int], weights: list[float] | None = None, seed: int = 0):
        self.sizes, self.seed = list(sizes), seed
        self.ends = list(accumulate(sizes))
        self.shares = integer_shares(weights) if weights else None
        self.draws = schedule(self.shares) if self.shares else []
        seen = [0] * len(sizes)
        self.ranks = []
        for source in self.draws:
            self.ranks.append(seen[source])
            seen[source] += 1

    def __call__(self, position: int) -> tuple[int, int, int]:
        if self.shares is None:
            epoch, place = divmod(position, self.ends[-1])
            index = int(permutation(hash_seed(self.seed, "all", epoch), self.ends[-1])[place])
            source = bisect_right(self.ends, index)
            return source, index - (self.ends[source] - self.sizes[source]), epoch
        period, place = divmod(position, len(self.draws))
        source = self.draws[place]
        drawn = period * self.shares[source] + self.ranks[place]
        epoch, place = divmod(drawn, self.sizes[source])
        index = permutation(hash_seed(self.seed, source, epoch), self.sizes[source])[place]
        return source, int(index), epoch


class TypedOrder:
    """Maps (type, position) to (source, index in the source, epoch): each type has an order of its own.

    Args:
        sources: for each type, the places of its sources among all.
        orders: for each type, the order of these sources.
    """

    def __init__(self, sources: list[list[int]], orders: list[GlobalOrder]):
        self.sources, self.orders = sources, orders

    def __call__(self, key: tuple[int, int]) -> tuple[int, int, int]:
        kind, position = key
        place, index, epoch = self.orders[kind](position)
        return self.sources[kind][place], index, epoch
