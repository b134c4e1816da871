"""Tensor parallelism: the ranks of a group work on the same samples and divide the products of each LM block."""

from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from emu2_lit.model import Emu2ForConditionalGeneration
from emu2_lit.model.tensor_share import tensor_share

DATA, TENSOR = "data_parallel", "tensor_parallel"  # Lightning's names of the dimensions of the mesh

# Megatron-LM (Shoeybi et al. 2019), section 3: whole heads and whole columns of the MLP stay on a rank, so that a block
# needs one sum after the attention and one after the MLP.
_COLUMNS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
_ROWS = ("self_attn.o_proj", "mlp.down_proj")


def is_tensor_parallel(mesh: DeviceMesh) -> bool:
    """Whether a mesh has groups that work on the same samples."""
    return TENSOR in (mesh.mesh_dim_names or ()) and mesh[TENSOR].size() > 1


def divide_blocks(base: Emu2ForConditionalGeneration, mesh: DeviceMesh) -> None:
    """Divide the linear layers of the language model's blocks over a group.

    Args:
        base: may be on the meta device.
        mesh: of one dimension.
    Raises:
        UserError: see `tensor_share`.
    """
    tensor_share(base.config, mesh.size())
    plan = {name: ColwiseParallel() for name in _COLUMNS} | {name: RowwiseParallel() for name in _ROWS}
    for block in base.lm.model.layers:
        parallelize_module(block, mesh, plan)
