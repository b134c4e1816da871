"""FSDP2 through Lightning: fully sharded, or sharded within groups of devices and replicated between them."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from emu2_lit.errors import UserError
from emu2_lit.strategies.shard import fill, piece, sharded_like
from emu2_lit.strategies.sharded_files import read_outline
from emu2_lit.strategies.tensor_parallel import DATA, is_tensor_parallel

_TRAINED = StateDictOptions(ignore_frozen_params=True, cpu_offload=True, strict=False)


class ShardedStrategy(ModelParallelStrategy):
    """Every device holds a piece of each block's weights, gradients and moments.

    The module shards itself in `configure_model` (`emu2_lit.strategies.shard`) over the mesh that it is given here.
    Checkpoints are folders of torch.distributed.checkpoint with what trains; they are read by any number of ranks, and
    single files are read too.

    Args:
        tensor_parallel: ranks of a group that works on the same samples (`emu2_lit.strategies.tensor_parallel`).
    """

    def __init__(self, tensor_parallel: int = 1):
        super().__init__(tensor_parallel_size=tensor_parallel)

    def _setup_distributed(self) -> None:
        super()._setup_distributed()
        self._data_parallel_size = self.world_size // self._tensor_parallel_size

    def setup_environment(self) -> None:
        super().setup_environment()
        self.lightning_module._device_mesh = self.sharding_mesh()

    def sharding_mesh(self) -> DeviceMesh:
        """Over which weights are divided."""
        return self.device_mesh if is_tensor_parallel(self.device_mesh) else self.device_mesh[DATA]

    # -- checkpoints -----------------------------------------------------------------------------------------
    def lightning_module_state_dict(self) -> dict[str, Any]:
        return get_model_state_dict(self.lightning_module, options=_TRAINED)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """What a checkpoint holds beside tensors; for those the module first sees names and shapes, and they are read
        when it agrees (`load_model_state_dict`)."""
        self._resumed = Path(self.broadcast(str(checkpoint_path)))
        if self._resumed.is_dir():
            return read_outline(self._resumed)
        return self.checkpoint_io.load_checkpoint(self._resumed, weights_only=weights_only)

    def load_model_state_dict(self, checkpoint: dict[str, Any], strict: bool = True) -> None:
        if self._resumed.is_dir():
            self._read_pieces()
        else:
            self._take_pieces(checkpoint)

    def _read_pieces(self) -> None:
        """Each rank reads its pieces, however many ranks wrote the checkpoint."""
        module = self.lightning_module
        state: dict[str, Any] = {"state_dict": self.lightning_module_state_dict()}
        for place, optimizer in enumerate(self.optimizers):
            state[f"optimizer_{place}"] = get_optimizer_state_dict(module, optimizer, options=_TRAINED)
        dcp.load(state, checkpoint_id=self._resumed)
        set_model_state_dict(module, state["state_dict"], options=_TRAINED)
        for place, optimizer in enumerate(self.optimizers):
            set_optimizer_state_dict(module, optimizer, state[f"optimizer_{place}"], options=_TRAINED)

    def _take_pieces(self, checkpoint: dict[str, Any]) -> None:
        """Each rank takes its pieces out of a file that one process wrote."""
        fill(dict(self.lightning_module.named_parameters()), checkpoint["state_dict"].items())
        for optimizer, saved in zip(self.optimizers, checkpoint.get("optimizer_states", ()), strict=False):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            state = {
                place: {name: _like(parameters[place], value) for name, value in values.items()}
                for place, values in saved["state"].items()
            }
            optimizer.load_state_dict({"state": state, "param_groups": saved["param_groups"]})


def _like(parameter: torch.Tensor, value: Any) -> Any:
    """This rank's piece of a moment; counters stay as they are."""
    if not isinstance(value, torch.Tensor) or value.shape != parameter.shape:
        return value
    own = piece(value, parameter.device_mesh, parameter.placements)
    return sharded_like(parameter, own.to(parameter.device, copy=True))


class HybridShardedStrategy(ShardedStrategy):
    """Divided within groups of devices, replicated between the groups.

    Args:
        shard_devices: devices of one group; None: those of one machine.
    """

    def __init__(self, shard_devices: int | None = None):
        super().__init__()
        self.shard_devices = shard_devices

    def sharding_mesh(self) -> DeviceMesh:
        """Raises UserError where the devices do not divide into groups."""
        size = self.shard_devices or self.num_processes
        groups, rest = divmod(self.world_size, size)
        if rest:
            raise UserError(f"trainer.shard_devices={size}: {self.world_size} devices do not divide into such groups")
        return init_device_mesh(self.root_device.type, (groups, size), mesh_dim_names=("replicate", "shard"))
