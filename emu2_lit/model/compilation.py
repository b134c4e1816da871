"""torch.compile of the language model's blocks, where nearly all of the work is."""

from functools import partial

import torch
from torch import nn


def compile_blocks(model: nn.Module) -> None:
    """Compile the forward pass of every block for training; names, weights and hooks stay as they are.

    All blocks are of one shape and share what is compiled. Evaluation and generation run as before: every length of
    their cache would be compiled anew.

    Args:
        model: an Emu2ForConditionalGeneration, with or without adapters in its layers.
    """
    for block in model.lm.model.layers:
        block.forward = partial(_forward, block, torch.compile(block.forward), block.forward)


def _forward(block: nn.Module, compiled, plain, *args, **kwargs):
    return (compiled if block.training else plain)(*args, **kwargs)
