"""The strategies by the names that a recipe gives them."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch.strategies import Strategy

from emu2_lit.strategies.deepspeed import stages
from emu2_lit.strategies.fsdp import HybridShardedStrategy, ShardedStrategy

_BUILDERS: dict[str, Callable[..., Strategy]] = {
    "fsdp": lambda trainer: ShardedStrategy(trainer.tensor_parallel),
    "hsdp": lambda trainer: HybridShardedStrategy(trainer.shard_devices),
    **stages(),
}


def build_strategy(name: str, trainer: Any) -> Strategy | str:
    """What Lightning's Trainer takes as `strategy`; its own names are passed on.

    Args:
        trainer: the recipe's section.
    """
    return _BUILDERS[name](trainer) if name in _BUILDERS else name
