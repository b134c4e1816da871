"""What each way of using several devices holds on one of them."""

from collections.abc import Callable
from dataclasses import dataclass

from emu2_lit.errors import UserError
from emu2_lit.plan.network import LM, REST, TOWER, Network, Unit

_BUCKET = 200_000_000  # numbers that DeepSpeed reduces at once, as Lightning sets it; two are under way
_PER_NODE = 8  # devices that HSDP shards over, where the number of nodes does not say


@dataclass(frozen=True)
class Strategy:
    """Which state is divided over the devices.

    Attributes:
        weights, gradients, optimizer: whether each is.
        engine: DeepSpeed, which keeps what trains in 16 bits, with a copy in float32 beside the moments.
        offload: moments and that copy are in main memory.
    """

    weights: bool = False
    gradients: bool = False
    optimizer: bool = False
    engine: bool = False
    offload: bool = False


STRATEGIES = {
    "auto": Strategy(),
    "ddp": Strategy(),
    "fsdp": Strategy(weights=True, gradients=True, optimizer=True),
    "hsdp": Strategy(weights=True, gradients=True, optimizer=True),
    "deepspeed_stage_2": Strategy(gradients=True, optimizer=True, engine=True),
    "deepspeed_stage_2_offload": Strategy(gradients=True, optimizer=True, engine=True, offload=True),
    "deepspeed_stage_3": Strategy(weights=True, gradients=True, optimizer=True, engine=True),
    "deepspeed_stage_3_offload": Strategy(weights=True, gradients=True, optimizer=True, engine=True, offload=True),
}
MOMENTS = {"adamw": 8.0, "adamw_8bit": 2 * (1 + 4 / 256)}  # bytes of both moments of one number; a scale for 256


@dataclass(frozen=True)
class Layout:
    """How the state of a network lies on one of `devices`.

    With tensor parallelism `network` is what one of a group of `tensor_parallel` devices sees: its share of the blocks
    of the language model, which is divided over the groups, and all else, which is divided over all devices.
    """

    network: Network
    strategy: str
    devices: int
    nodes: int = 1
    optimizer: str = "adamw"
    compute_width: int = 2  # bytes of a number in the arithmetic of the forward pass
    tensor_parallel: int = 1

    def __post_init__(self):
        if self.strategy not in STRATEGIES:
            raise UserError(f"trainer.strategy: {self.strategy}; a plan knows {', '.join(STRATEGIES)}")
        if self.optimizer == "adamw_8bit" and self.strategy in ("fsdp", "hsdp"):
            raise UserError(f"optimizer.name: adamw_8bit cannot be divided by {self.strategy}")

    @property
    def rules(self) -> Strategy:
        return STRATEGIES[self.strategy]

    @property
    def shards(self) -> int:
        """Devices that divide the state between them."""
        if self.strategy != "hsdp":
            return self.devices
        return max(1, min(self.devices // self.nodes, _PER_NODE if self.nodes == 1 else self.devices))

    @property
    def casts(self) -> bool:
        """Whether blocks get their weights in the type of the arithmetic, not in float32."""
        return self.rules.weights or self.rules.engine

    def weights(self) -> dict[str, int]:
        """Bytes by kind of number, those that train apart."""
        divided, width = self.rules.weights, self.compute_width
        kinds = {kind for unit in self.network.units.values() for kind in unit.frozen}
        frozen = {
            f"frozen, {kind}": self._sum(lambda unit, kind=kind: unit.frozen[kind], divided) for kind in sorted(kinds)
        }
        trained = self._sum(lambda unit: unit.trained * width if self.rules.engine else unit.trained_bytes, divided)
        return frozen | {"trained": trained}

    def gradients(self) -> int:
        """Bytes that stay between two micro-batches."""
        if not self.rules.gradients:
            copy = self.devices > 1  # DDP reduces them in buckets, which are a copy
            return self.network.trained_bytes * (2 if copy else 1)
        width = self.compute_width if self.rules.engine else self.network.gradient_width
        return 0 if self.rules.offload else self._sum(lambda unit: unit.trained * width, True)

    def optimizer_state(self) -> int:
        """Bytes of the moments, and of the float32 copy of an engine."""
        if self.rules.offload:
            return 0
        moments = MOMENTS[self.optimizer]
        if self.optimizer == "adamw":  # as wide as what trains
            moments *= (4 if self.rules.engine else self.network.gradient_width) / 4
        width = moments + (4 if self.rules.engine else 0)
        return self._sum(lambda unit: int(unit.trained * width), self.rules.optimizer)

    def update(self, fused: bool, gpu: bool) -> int:
        """Bytes of what an optimizer step makes on the way: for all tensors at once on a GPU, one by one on a CPU and
        with tensor parallelism."""
        if fused or self.rules.engine or self.optimizer != "adamw":
            return 0
        width, divided = self.network.gradient_width, self.rules.optimizer
        if gpu and self.tensor_parallel == 1:
            return self._sum(lambda unit: unit.trained * width, divided)
        units = self.network.units.items()
        return 2 * width * max(unit.largest // (self._over(kind) if divided else 1) for kind, unit in units)

    def _over(self, kind: str) -> int:
        """Devices that divide a unit of a kind between them."""
        return self.shards // self.tensor_parallel if kind == LM else self.shards

    def _sum(self, size: Callable[[Unit], int], divided: bool) -> int:
        """Of one device, what all units hold, divided or not."""
        counts = self.network.counts
        return sum(
            size(unit) * counts[kind] // (self._over(kind) if divided else 1)
            for kind, unit in self.network.units.items()
        )

    def gathered(self, backward: bool) -> int:
        """Bytes of whole units that are on the device while a block computes: what is in no block, the block and the
        one fetched ahead; in the backward pass the gradients that are still to be reduced."""
        units = self.network.units
        blocks = max(units[kind].gathered(self.compute_width) for kind in (TOWER, LM))
        size = 0
        if self.rules.weights and self.shards > 1:
            size += units[REST].gathered(self.compute_width) + 2 * blocks
            size += units[REST].trained * self.compute_width if backward else 0
        if self.rules.engine and self.shards > 1 and backward:
            size += 2 * min(self.network.trained, _BUCKET) * self.compute_width
        return size
