"""What the engines need for this model: loading, sharding, atomic saving, ranks under SLURM."""

from emu2_lit.strategies.atomic import AtomicCheckpointIO
from emu2_lit.strategies.publish import clean, discard, is_complete, publish, read_about, tensor_bytes
from emu2_lit.strategies.srun import check_devices, cluster_environment, started_by_srun

__all__ = [
    "AtomicCheckpointIO",
    "check_devices",
    "clean",
    "cluster_environment",
    "discard",
    "is_complete",
    "publish",
    "read_about",
    "started_by_srun",
    "tensor_bytes",
]
