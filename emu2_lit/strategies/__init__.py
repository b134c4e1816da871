"""What the engines need for this model: loading, sharding, atomic saving."""

from emu2_lit.strategies.atomic import AtomicCheckpointIO

__all__ = ["AtomicCheckpointIO"]
