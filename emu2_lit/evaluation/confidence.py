"""How sure a mean over the items of a benchmark is, and the difference of two models on the same items."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from emu2_lit.errors import UserError


@dataclass(frozen=True)
class Interval:
    """A mean and the interval that it lies in with confidence `level`, by the method named."""

    mean: float
    low: float
    high: float
    level: float
    method: Literal["wilson", "bootstrap"]


def mean_interval(values: Sequence[float], level: float = 0.95, seed: int = 0, resamples: int = 2000) -> Interval:
    """Mean of items with its confidence interval.

    Wilson's (1927) where every value is 0 or 1, else the percentiles of a seeded bootstrap over items (Efron, 1979).
    What else varies, such as the draw of demonstrations, is not in it.

    Raises:
        UserError: no values, values that are not finite, or a level outside 0..1.
    """
    items = _checked(values, level)
    if np.isin(items, (0, 1)).all():
        return _wilson(items, level)
    return _bootstrap(items, level, seed, resamples)


def paired_difference(
    base: Mapping[str, float], tuned: Mapping[str, float], level: float = 0.95, seed: int = 0, resamples: int = 2000
) -> Interval:
    """Mean of tuned less base over the same items, with a bootstrap interval over items.

    Pairing leaves out how hard the items are, so that the interval is narrower than those of the two means would
    suggest. It has no width where all items differ by the same amount.

    Args:
        base, tuned: the value of each item by its id.

    Raises:
        UserError: not the same items, or as in `mean_interval`.
    """
    if base.keys() != tuned.keys():
        odd = sorted(base.keys() ^ tuned.keys())
        raise UserError(
            f"Paired difference: {len(odd)} items were scored for one model only, such as {odd[0]!r}; "
            "evaluate both on the same items."
        )
    items = _checked([tuned[name] - base[name] for name in sorted(base)], level)
    return _bootstrap(items, level, seed, resamples)


def _checked(values: Sequence[float], level: float) -> np.ndarray:
    items = np.asarray(values, dtype=np.float64)
    if items.size == 0:
        raise UserError("Confidence interval: no items to average.")
    if not np.isfinite(items).all():
        raise UserError(f"Confidence interval: {(~np.isfinite(items)).sum()} items have no value of their own.")
    if not 0 < level < 1:
        raise UserError(f"Confidence interval: level {level} is not between 0 and 1; 0.95 is usual.")
    return items


def _wilson(items: np.ndarray, level: float) -> Interval:
    n, share = items.size, float(items.mean())
    z = NormalDist().inv_cdf((1 + level) / 2)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half), level, "wilson")


def _bootstrap(items: np.ndarray, level: float, seed: int, resamples: int) -> Interval:
    random = np.random.default_rng(seed)
    means = [random.choice(items, items.size).mean() for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(items.mean()), float(low), float(high), level, "bootstrap")
