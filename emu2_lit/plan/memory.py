"""The memory of one device over a training step."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from emu2_lit.plan.recorder import Phase
from emu2_lit.plan.strategy import Layout

_LABELS = {"inputs": "pictures and token ids", "loss": "logits and loss"}


@dataclass(frozen=True)
class Moment:
    """One phase as a device sees it: what is there at its highest point, in bytes by kind."""

    phase: str
    block: int | None
    held: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.held.values())

    @property
    def name(self) -> str:
        return self.phase if self.block is None else f"{self.phase} {self.block}"


@dataclass(frozen=True)
class Memory:
    """What one device holds throughout, and the highest point of each phase of a step."""

    weights: dict[str, int]
    gradients: int
    optimizer: int
    moments: list[Moment]

    @property
    def peak(self) -> Moment:
        return max(self.moments, key=lambda moment: moment.total)


def of_step(
    layout: Layout, phases: list[Phase], *, accumulates: bool, fused: bool = False, gpu: bool = False
) -> Memory:
    """Put the phases of a whole step (`unfold`) onto what the layout holds throughout.

    Args:
        accumulates: the gradients stay from one micro-batch to the next; else they are let go before the backward
            pass, not before the forward pass.
        fused: one kernel updates all weights.
    """
    weights, gradients, optimizer = layout.weights(), layout.gradients(), layout.optimizer_state()
    state = {"weights": sum(weights.values()), "optimizer state": optimizer}
    moments = list(_moments(layout, phases, state, gradients, accumulates))
    left = moments[-1].held["activations kept"] if moments else 0
    update = {"gradients": gradients, "activations kept": left, "at work": layout.update(fused, gpu)}
    moments.append(Moment("optimizer step", None, state | update))
    return Memory(weights, gradients, optimizer, moments)


def _moments(
    layout: Layout, phases: list[Phase], state: dict[str, int], gradients: int, accumulates: bool
) -> Iterator[Moment]:
    divided = layout.rules.gradients
    copies = gradients - layout.network.trained_bytes if not divided else 0  # DDP's buckets
    kept, fresh = 0, gradients
    for phase in phases:
        if phase.name == "backward of the loss" and not accumulates and not divided:
            fresh = copies
        held = {
            "gradients": fresh,
            "activations kept": kept,
            "gathered": layout.gathered(phase.backward),
            "at work": phase.peak,
        }
        yield Moment(phase.name, phase.block, state | held)
        kept += phase.held - phase.gradients
        fresh += 0 if divided else phase.gradients


def activations(phases: list[Phase]) -> dict[str, int]:
    """Bytes that the forward pass keeps for the backward pass, by where they arise."""
    kept: Counter = Counter()
    for phase in phases:
        if not phase.backward:
            kept[_LABELS.get(phase.name, f"{phase.name}s" if phase.block is not None else phase.name)] += phase.held
    return dict(kept)
