"""A plan: memory, time and disk of a recipe on given devices."""

from dataclasses import dataclass
from typing import Any

from emu2_lit.plan.cost import EFFICIENCY, RATES, Work
from emu2_lit.plan.memory import Memory, activations
from emu2_lit.plan.recorder import Phase
from emu2_lit.plan.strategy import Layout
from emu2_lit.plan.workload import Workload

GIB = 2**30
RESERVES = {True: 2 * GIB, False: GIB}  # GPU: its context, libraries, fragments; CPU: the process before the model


@dataclass(frozen=True)
class Advice:
    """A change, in words, and the peak that it leads to."""

    change: str
    peak: int


@dataclass(frozen=True)
class Plan:
    """What a run takes, by device unless said otherwise.

    Attributes:
        name: of the recipe; network: preset or weights that gave the sizes.
        layout: network, strategy, number of devices.
        phases: of one micro-batch; memory: over them.
        passes: micro-batches of one optimizer step; steps: of the run, None where it counts epochs.
        samples: of one optimizer step, over all devices.
        device: the row of `cost.RATES`.
        result_bytes, checkpoint_bytes, picture_bytes: on disk: what the run leaves, one checkpoint, one picture of a
            cache of features.
        available: bytes of a device; None where it is not known.
    """

    name: str
    network: str
    layout: Layout
    workload: Workload
    phases: list[Phase]
    memory: Memory
    work: Work
    passes: int
    samples: float
    steps: int | None
    device: str
    gpu: bool
    result_bytes: int
    checkpoint_bytes: int
    picture_bytes: int
    available: int | None = None
    advice: tuple[Advice, ...] = ()

    @property
    def peak(self) -> int:
        """Bytes at the highest point, without the reserve."""
        return self.memory.peak.total

    @property
    def needed(self) -> int:
        """Bytes that a device must have: the peak and the reserve."""
        return self.peak + RESERVES[self.gpu]

    @property
    def room(self) -> int:
        """Bytes that a peak may have to fit."""
        return (self.available or 0) - RESERVES[self.gpu]

    @property
    def fits(self) -> bool | None:
        """None where the memory of the device is not known."""
        return None if self.available is None else self.peak <= self.room

    @property
    def step_seconds(self) -> float:
        return self.work.seconds(self.device) * self.passes

    def values(self) -> dict[str, Any]:
        """All figures as plain values; sizes in bytes."""
        peak = self.memory.peak
        return {
            "recipe": self.name,
            "network": self.network,
            "devices": self.layout.devices,
            "strategy": self.layout.strategy,
            "tensor_parallel": self.layout.tensor_parallel,
            "optimizer": self.layout.optimizer,
            "micro_batch": {
                "samples": self.workload.samples, "length": self.workload.length, "images": self.workload.images,
            },
            "weights": self.memory.weights,
            "gradients": self.memory.gradients,
            "optimizer_state": self.memory.optimizer,
            "activations": activations(self.phases),
            "gathered": self.layout.gathered(backward=True),
            "peak": {"bytes": peak.total, "when": peak.name, "holds": peak.held},
            "reserve": RESERVES[self.gpu],
            "needed": self.needed,
            "available": self.available,
            "fits": self.fits,
            "advice": [{"change": one.change, "peak": one.peak, "saves": self.peak - one.peak} for one in self.advice],
            "tokens_per_step": round(self.samples * self.workload.length),
            "flops_per_micro_batch": {"executed": self.work.total, "recomputed": self.work.recomputed},
            "time": {
                "device": self.device, "tflops": RATES[self.device], "efficiency": EFFICIENCY,
                "step_seconds": self.step_seconds,
                "run_hours": self.steps * self.step_seconds / 3600 if self.steps else None,
            },
            "disk": {
                "result": self.result_bytes, "checkpoint": self.checkpoint_bytes,
                "cached_picture": self.picture_bytes,
            },
        }  # fmt: skip
