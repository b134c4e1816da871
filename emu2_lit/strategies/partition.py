"""Dividing the network with ZeRO-3, which takes each tensor apart as soon as it is there."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from emu2_lit.model.loading import compute_buffers
from emu2_lit.model.parts import published, tuning_mode


def build_partitions(
    root: nn.Module, base: nn.Module, tensors: Iterable[tuple[str, Tensor]], config: dict[str, Any],
    dtype: torch.dtype | None, device: torch.device,
) -> None:  # fmt: skip
    """Fill a model that has no memory yet from a stream of the base's tensors; no more than one is whole at a time.

    Adapters, which are small, are taken apart by DeepSpeed itself when it starts.

    Args:
        root: what is called: the model, or its PEFT wrapper.
        base: the Emu2ForConditionalGeneration in it.
        config: DeepSpeed's.
        dtype: of everything, where DeepSpeed computes in 16 bits; None: as it is.
    """
    from deepspeed import zero

    init = zero.Init(config_dict_or_path=config)
    homes = {
        published(f"{path}.{name}" if path else name): (module, name)
        for path, module in base.named_modules()
        for name, _ in module.named_parameters(recurse=False)
        if tuning_mode(f"{path}.{name}", True) == "full"
    }
    for name, tensor in tensors:
        module, leaf = homes[name]
        empty = getattr(module, leaf)
        parameter = nn.Parameter(tensor.to(dtype or empty.dtype).clone(), requires_grad=empty.requires_grad)
        setattr(module, leaf, parameter)
        init._convert_to_zero_parameters([parameter])
    _start_tokens(root)
    compute_buffers(base, lambda name: device)
    base.in_step = True
    base._is_fsdp_managed_module = True  # transformers' generate then goes on until every rank is done


def _start_tokens(root: nn.Module) -> None:
    """Rows of new tokens, which PEFT trains apart, start as they are in the embedding. Their layer reads them and
    the embedding without calling what holds them, which ZeRO must be told."""
    from deepspeed import zero

    for layer in [module for module in root.modules() if hasattr(module, "trainable_tokens_delta")]:
        weight = layer.get_base_layer().weight
        rows = whole(weight)
        for name, delta in list(layer.trainable_tokens_delta.items()):
            own = rows[layer.token_indices[name]].to(delta.dtype)
            layer.trainable_tokens_delta[name] = nn.Parameter(own.clone(), requires_grad=delta.requires_grad)
            layer.trainable_tokens_original[name] = own
            zero.register_external_parameter(layer, layer.trainable_tokens_delta[name])
        zero.register_external_parameter(layer, weight)


def is_partitioned(tensor: Tensor) -> bool:
    """Whether ZeRO-3 has taken it apart."""
    return hasattr(tensor, "ds_id")


def is_engine_held(tensor: Tensor) -> bool:
    """Whether DeepSpeed has this parameter: taken apart, or beside a float32 copy that it updates."""
    return is_partitioned(tensor) or hasattr(tensor, "_hp_mapping")


def whole(tensor: Tensor) -> Tensor:
    """A copy in one piece, in float32 of what an engine trains; every rank must call this."""
    from deepspeed import zero
    from deepspeed.utils import safe_get_full_fp32_param

    if tensor.requires_grad and (hasattr(tensor, "_z3_optimizer") or hasattr(tensor, "_hp_mapping")):
        if dist.get_backend() == "nccl":  # Lightning moves models to main memory at the end of a fit
            tensor.data = tensor.data.to(torch.device("cuda", torch.cuda.current_device()))
        return safe_get_full_fp32_param(tensor).detach().clone()
    with zero.GatheredParameters([tensor]):
        return tensor.detach().clone()
