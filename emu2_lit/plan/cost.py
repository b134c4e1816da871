"""Time and disk: estimates from the work of a step and from what is stated here about devices."""

from dataclasses import dataclass

from emu2_lit.errors import UserError
from emu2_lit.plan.network import LM, TOWER
from emu2_lit.plan.recorder import Phase

# Dense bf16 matrix products in TFLOP/s, as the makers state them; "cpu": two cores with AVX-512, about.
RATES = {
    "h200": 989, "h100": 989, "a100": 312, "l40s": 362, "a6000": 155, "rtx4090": 165, "a10g": 70, "cpu": 0.1,
}  # fmt: skip
EFFICIENCY = 0.4  # share of it that training is taken to reach, communication and loading included


@dataclass(frozen=True)
class Work:
    """Floating-point operations of one micro-batch.

    Attributes:
        total: all that are executed.
        recomputed: of these, for activation checkpointing.
    """

    total: int
    recomputed: int

    def seconds(self, device: str) -> float:
        """Of one micro-batch on a device of `RATES`. An estimate."""
        if device not in RATES:
            raise UserError(f"--gpu {device}: no rate is known; one of {', '.join(RATES)}")
        return self.total / (RATES[device] * 1e12 * EFFICIENCY)


def work(phases: list[Phase], checkpointing: bool) -> Work:
    """The work in the phases of a whole step."""
    recomputed = 0
    for kind in (TOWER, LM) if checkpointing else ():
        if any(phase.name == f"backward of {kind}" for phase in phases):
            recomputed += sum(phase.flops for phase in phases if phase.name == kind)
    return Work(sum(phase.flops for phase in phases), recomputed)
