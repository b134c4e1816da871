"""What the engines need for this model: loading, sharding, atomic saving."""

from emu2_lit.strategies.atomic import AtomicCheckpointIO
from emu2_lit.strategies.publish import clean, discard, is_complete, publish, read_about, tensor_bytes

__all__ = ["AtomicCheckpointIO", "clean", "discard", "is_complete", "publish", "read_about", "tensor_bytes"]
