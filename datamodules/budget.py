"""What was skipped and why, and the budget that stops a run on bad data."""

import math
from collections import Counter
from dataclasses import dataclass

from emu2_lit.errors import UserError

MIN_BAD = 3


@dataclass(frozen=True)
class Skipped:
    """A sample that left its slot empty: where and in which epoch it was drawn, and why it is bad."""

    source: str
    id: str
    reason: str
    position: int
    epoch: int = 0


class Budget:
    """Stops a run when more than `share` of a source is bad.

    Samples count in the first epoch of their source, each once. As long as only part of a source has been seen, its
    share is held against the limit plus three standard deviations, so that chance alone stops no run. Fewer than
    MIN_BAD bad samples stop none either, unless they are most of the source.
    """

    def __init__(self, share: float, sizes: dict[str, int]):
        self.share, self.sizes = share, sizes
        self.drawn, self.bad = Counter[str](), Counter[str]()
        self.reasons: dict[str, list[str]] = {name: [] for name in sizes}

    def add(self, drawn: dict[str, int], bad: dict[str, int]) -> None:
        """Add the counts of one window, over all ranks."""
        self.drawn.update(drawn)
        self.bad.update(bad)

    def remember(self, skipped: list[Skipped], limit: int = 5) -> None:
        """Keep the first reasons of each source for the message."""
        for entry in skipped:
            reasons = self.reasons[entry.source]
            if len(reasons) < limit:
                reasons.append(f"{entry.id}: {entry.reason}")

    def exceeded(self) -> list[str]:
        """The sources that are over the limit."""
        return [name for name in self.sizes if self._is_over(name)]

    def _is_over(self, name: str) -> bool:
        drawn, bad, whole = self.drawn[name], self.bad[name], self.drawn[name] >= self.sizes[name]
        allowed = self.share * drawn
        if not whole:
            allowed += 3 * math.sqrt(allowed)
        return bad > allowed and (bad >= MIN_BAD or (whole and bad > drawn / 2))

    def error(self, name: str, reasons: list[str]) -> UserError:
        """The error that ends the run."""
        drawn, bad = self.drawn[name], self.bad[name]
        lines = [
            f"data source {name}: {bad} of the {drawn} samples drawn so far are bad "
            f"({bad / drawn:.1%}, allowed {self.share:.1%}). The first reasons:",
            *(f"  {reason}" for reason in reasons),
            "Repair the data (`emu2-lit data check` lists every bad sample) or raise data.bad_budget.",
        ]
        return UserError("\n".join(lines))
