"""What was skipped and why, and the budget that stops a run on bad data."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from emu2_lit.errors import UserError

MIN_BAD = 3


@dataclass(frozen=True)
class Skipped:
    """A sample that left its slot empty: where and in which epoch it was drawn, why it is bad, and which one of its
    source it is."""

    source: str
    id: str
    reason: str
    position: int
    epoch: int = 0
    index: int = -1


class Budget:
    """Stops a run when more than `share` of a source is bad; every source has a budget of its own.

    A bad sample counts once, however often it is drawn, and whenever it went bad. As long as only part of a source has
    been seen, its share is held against the limit plus three standard deviations, so that chance alone stops no run.
    Fewer than MIN_BAD bad samples stop none either, unless they are most of the source. `state_dict` makes a resumed
    run decide as one that was never stopped.
    """

    def __init__(self, share: float, sizes: Mapping[str, int]):
        self.share, self.sizes = share, sizes
        self.drawn = Counter[str]()  # in the first epoch of a source, where no sample occurs twice
        self.bad: dict[str, set[int]] = {name: set() for name in sizes}
        self.reasons: dict[str, list[str]] = {name: [] for name in sizes}

    def add(self, drawn: Mapping[str, int], skipped: Iterable[Skipped], shown: int = 5) -> None:
        """Add one window, over all ranks; the first reasons of each source are kept for the message."""
        self.drawn.update(drawn)
        for entry in skipped:
            if entry.index not in self.bad[entry.source] and len(self.bad[entry.source]) < shown:
                self.reasons[entry.source].append(f"{entry.id}: {entry.reason}")
            self.bad[entry.source].add(entry.index)

    def exceeded(self) -> list[str]:
        """The sources that are over the limit."""
        return [name for name in self.sizes if self._is_over(name)]

    def _is_over(self, name: str) -> bool:
        drawn, bad, whole = self.drawn[name], len(self.bad[name]), self.drawn[name] >= self.sizes[name]
        allowed = self.share * drawn
        if not whole:
            allowed += 3 * math.sqrt(allowed)
        return bad > allowed and (bad >= MIN_BAD or (whole and bad > drawn / 2))

    def error(self, name: str) -> UserError:
        """The error that ends the run."""
        drawn, bad = max(self.drawn[name], 1), len(self.bad[name])
        lines = [
            f"data source {name}: {bad} of the {drawn} samples drawn so far are bad "
            f"({bad / drawn:.1%}, allowed {self.share:.1%}). The first reasons:",
            *(f"  {reason}" for reason in self.reasons[name]),
            "Repair the data (`emu2-lit data check` lists every bad sample) or raise data.bad_budget.",
        ]
        return UserError("\n".join(lines))

    def state_dict(self) -> dict[str, Any]:
        bad = {name: sorted(indexes) for name, indexes in self.bad.items()}
        return {"drawn": dict(self.drawn), "bad": bad, "reasons": self.reasons}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Sources that are no longer there are left out."""
        self.drawn.update({name: count for name, count in state["drawn"].items() if name in self.sizes})
        for name in set(self.sizes) & set(state["bad"]):
            self.bad[name].update(state["bad"][name])
            self.reasons[name] += state["reasons"][name]
