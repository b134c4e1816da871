"""Sharding the network with FSDP2: what is a unit, in which types it computes, and how a piece is filled."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.placement_types import Replicate, Shard, _StridedShard

from emu2_lit.model.loading import compute_buffers
from emu2_lit.model.parts import published, tuning_mode
from emu2_lit.ranks import place
from emu2_lit.strategies import partition
from emu2_lit.strategies.tensor_parallel import DATA, TENSOR, divide_blocks, is_tensor_parallel

_FORWARD = ("generate", "generate_image", "encode_image")  # entered from outside, besides `forward`


def shard(root: nn.Module, base: nn.Module, mesh: DeviceMesh, policy: MixedPrecisionPolicy) -> None:
    """Divide a model over the ranks of a mesh: each block of the tower and of the language model is a unit, all else
    belongs to the root. What is frozen is divided too.

    Args:
        root: what is called: the model, or its PEFT wrapper.
        base: the Emu2ForConditionalGeneration in it; its weights may be on the meta device.
        mesh: with tensor parallelism of two dimensions; blocks of the language model are then divided within a group
            and over the groups, all else over all ranks as without it.
    """
    everyone, groups = mesh, mesh
    if is_tensor_parallel(mesh):
        divide_blocks(base, mesh[TENSOR])
        everyone, groups = mesh._flatten(), mesh[DATA]
    own = set(base.lm.model.layers)
    kinds = set(base._no_split_modules)
    for block in [module for module in base.modules() if type(module).__name__ in kinds]:
        over = groups if block in own else everyone
        fully_shard(block, mesh=over, mp_policy=policy, reshard_after_forward=True)
    fully_shard(root, mesh=everyone, mp_policy=policy, reshard_after_forward=True)
    for name in _FORWARD:
        register_fsdp_forward_method(root, name)
    base.in_step = True
    base._is_fsdp_managed_module = True  # transformers' generate then goes on until every rank is done


def build_shards(
    root: nn.Module, base: nn.Module, tensors: Iterable[tuple[str, Tensor]] | None, mesh: DeviceMesh, precision: str,
    device: torch.device,
) -> None:  # fmt: skip
    """Shard a model that has no memory yet and fill it from a stream of the base's tensors.

    Args:
        root, base: as in `shard`; adapters on the base have their values.
        tensors: None for a model that has its weights.
        precision: of Lightning's Trainer.
    """
    shard(root, base, mesh, mixed_precision(precision))
    if tensors is None:
        return
    allocate(root, device)
    parameters = {published(name): p for name, p in base.named_parameters() if tuning_mode(name, True) == "full"}
    fill(parameters, tensors)
    _start_tokens(root)
    compute_buffers(base, lambda name: device)


def _start_tokens(root: nn.Module) -> None:
    """Rows of new tokens, which PEFT trains apart, start as they are in the embedding."""
    for layer in [module for module in root.modules() if hasattr(module, "trainable_tokens_delta")]:
        weight = whole(layer.get_base_layer().weight)
        for name, delta in layer.trainable_tokens_delta.items():
            rows = weight[layer.token_indices[name]]
            fill({name: delta}, [(name, rows)])
            layer.trainable_tokens_original[name] = rows


def mixed_precision(precision: str) -> MixedPrecisionPolicy:
    """Under autocast blocks are gathered in 16 bits and their gradients are summed in float32; what is not a product
    stays as wide as on one device."""
    if not precision.endswith("-mixed"):
        return MixedPrecisionPolicy()
    return MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)


def allocate(root: nn.Module, device: torch.device) -> None:
    """Give parameters on the meta device memory for this rank's piece."""
    for module in root.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.is_meta:
                own = sharded_like(parameter, torch.empty_like(parameter.to_local(), device=device))
                setattr(module, name, nn.Parameter(own, requires_grad=parameter.requires_grad))


@torch.no_grad()
def fill(parameters: Mapping[str, nn.Parameter], tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Copy this rank's pieces out of a stream of tensors, which are whole or already cut, into parameters by name."""
    for name, tensor in tensors:
        parameter = parameters[name]
        cut = tensor.shape != parameter.shape
        parameter.to_local().copy_(tensor if cut else piece(tensor, parameter.device_mesh, parameter.placements))


def piece(tensor: Tensor, mesh: DeviceMesh, placements: Iterable) -> Tensor:
    """This rank's piece of a whole tensor; a view. A strided dimension divides what the others have left."""
    divided = [(d, one) for d, one in enumerate(placements) if isinstance(one, Shard | _StridedShard)]
    for dimension, placement in sorted(divided, key=lambda pair: isinstance(pair[1], _StridedShard)):
        pieces, mine = tensor.chunk(mesh.size(dimension), placement.dim), mesh.get_local_rank(dimension)
        tensor = pieces[mine] if mine < len(pieces) else tensor.narrow(placement.dim, 0, 0)
    return tensor


def own_piece(tensor: Tensor, mesh: DeviceMesh) -> Tensor:
    """The same for a parameter, as FSDP2 divides it: by rows, over the last dimension of the mesh. With tensor
    parallelism that differs from one to the next, and they stay whole."""
    if is_tensor_parallel(mesh):
        return tensor
    return piece(tensor, mesh, [*[Replicate()] * (mesh.ndim - 1), Shard(0)])


def sharded_like(parameter: DTensor, own: Tensor) -> DTensor:
    """A tensor that is divided as `parameter` is, of which this rank holds `own`."""
    return DTensor.from_local(
        own, parameter.device_mesh, parameter.placements, run_check=False, shape=parameter.shape,
        stride=parameter.stride(),
    )  # fmt: skip


def whole(tensor: Tensor) -> Tensor:
    """A tensor in one piece. Where it is divided every rank must call this."""
    if partition.is_engine_held(tensor):
        return partition.whole(tensor)
    if not isinstance(tensor, DTensor):
        return tensor
    if any(isinstance(one, _StridedShard) for one in tensor.placements):  # at once torch warns that it takes two steps
        outer = [Replicate() if isinstance(one, _StridedShard) else one for one in tensor.placements]
        tensor = tensor.redistribute(placements=outer)
    return tensor.full_tensor()


def total_norm(gradients: Iterable[Tensor]) -> Tensor:
    """The norm of all gradients together, which may be divided over different meshes. Every rank must call this."""
    groups = _by_mesh(gradients)
    norms = [whole(torch.nn.utils.get_total_norm(group)) for group in groups]
    return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))


def clip(parameters: Iterable[nn.Parameter], norm: float) -> None:
    """`torch.nn.utils.clip_grad_norm_` for gradients that may be divided over different meshes."""
    parameters = [parameter for parameter in parameters if parameter.grad is not None]
    total = total_norm(parameter.grad for parameter in parameters)
    for group in _by_mesh(parameters):
        torch.nn.utils.clip_grads_with_norm_(group, norm, total)


def on_one_mesh(tensors: Iterable[Tensor]) -> bool:
    """Whether torch's functions take these tensors together."""
    return len(_by_mesh(tensors)) <= 1


def _by_mesh(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    groups: dict[DeviceMesh | None, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.device_mesh if isinstance(tensor, DTensor) else None, []).append(tensor)
    return list(groups.values())


def gathered_state(
    model: nn.Module, adapters_only: bool = False, dtype: torch.dtype | None = None
) -> dict[str, Tensor] | None:
    """The state dict of a sharded model in main memory of rank 0, gathered tensor by tensor, and an empty one on the
    others; None for a model that is not sharded.

    Args:
        dtype: of floating tensors; default as they are.
    """
    state = model.state_dict(keep_vars=True)
    if not any(isinstance(tensor, DTensor) or partition.is_engine_held(tensor) for tensor in state.values()):
        return None
    gathered: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if adapters_only and tuning_mode(name, True) == "full":
            continue
        full = whole(tensor).detach()
        if place()[0] == 0:
            gathered[name] = full.to("cpu", dtype if full.is_floating_point() else None)
    return gathered
