"""Time and disk: estimates from the work of a step and from what is stated here about devices."""

from dataclasses import dataclass

from emu2_lit.errors import UserError
from emu2_lit.plan.network import LM, TOWER
from emu2_lit.plan.recorder import Phase

# Dense bf16 matrix products in TFLOP/s, as the makers state them; "cpu": two cores with AVX-512, about.
RATES = {
    "h200": 989, "h100pcie": 756, "h100nvl": 835, "h100": 989, "a100": 312, "l40s": 362, "a6000": 155, "rtx4090": 165,
    "a10g": 70, "cpu": 0.1,
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


def gpu_rate(name: str) -> float | None:
    """FLOP/s of a GPU by the name that its driver gives, such as "NVIDIA H100 80GB HBM3"; None: not known."""
    plain = name.lower().replace(" ", "").replace("80gb", "")
    return next((rate * 1e12 for row, rate in RATES.items() if row in plain), None)


@dataclass(frozen=True)
class SampleWork:
    """Floating-point operations that learning takes, without any that are made twice.

    Attributes:
        token: of each token; pair: of each pair of tokens of a sample, in attention; picture: of each; learned: of
            each token that is learned.
    """

    token: float
    pair: float
    picture: float
    learned: float

    def of(self, tokens: int, pairs: int, pictures: int, learned: int) -> float:
        """Of some samples; `pairs` is the sum of their squared lengths."""
        return self.token * tokens + self.pair * pairs + self.picture * pictures + self.learned * learned


def sample_work(short: list[Phase], long: list[Phase], lengths: tuple[int, int], learned: int) -> SampleWork:
    """From two steps over one sample with one picture, of two lengths, without activation checkpointing."""

    def flops(phases: list[Phase], *names: str) -> int:
        return sum(phase.flops for phase in phases if phase.name.removeprefix("backward of ") in names)

    # a t + b t^2 operations for t tokens, at two lengths
    rates = [flops(phases, LM) / length for phases, length in zip((short, long), lengths, strict=True)]
    pair = (rates[1] - rates[0]) / (lengths[1] - lengths[0])
    head, blocks = flops(short, "loss", "the loss"), flops(short, LM)
    return SampleWork(
        token=rates[0] - pair * lengths[0], pair=pair, learned=head / learned,
        picture=sum(phase.flops for phase in short) - head - blocks,
    )  # fmt: skip
