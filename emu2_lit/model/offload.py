"""Weights that wait in main memory and visit the accelerator while they compute."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import nn


def stays(module: nn.Module) -> bool:
    """Whether a module's weights cannot be lent: spread over devices, or packed in 4 bits."""
    return hasattr(module, "hf_device_map") or getattr(module, "is_loaded_in_4bit", False)


@contextmanager
def lent(module: nn.Module, device: torch.device | str) -> Iterator[None]:
    """Let a module compute on a device for the length of a block.

    Its weights are copied there, and the copies are dropped after; nothing is copied back, so they must not be
    changed meanwhile. Costs nothing where they lie on that device already.
    """
    tensors = [] if stays(module) else list(chain(module.parameters(), module.buffers()))
    homes = [tensor.data for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.data = tensor.data.to(device)
        yield
    finally:
        for tensor, home in zip(tensors, homes, strict=True):
            tensor.data = home
