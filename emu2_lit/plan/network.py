"""The network of a plan: on the meta device, with as many blocks as it takes to know them all."""

import copy
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emu2_lit.model import Emu2Config, Emu2ForConditionalGeneration

TRACED = 4  # blocks: the first, one like all others, and the last two, of which one holds the other's input
TOWER, LM, REST = "tower block", "LM block", "rest"
_BLOCK = re.compile(r"(visual\.blocks|lm\.model\.layers)\.(\d+)\.")
_KINDS = {"visual.blocks": TOWER, "lm.model.layers": LM}
_NF4_BLOCK, _NF4_GROUP = 64, 256  # weights of one scale, scales of one scale of scales (bitsandbytes)


def depths(config: Emu2Config) -> dict[str, int]:
    """How many blocks of each kind the network has."""
    return {TOWER: config.vision_config.num_hidden_layers, LM: config.text_config.num_hidden_layers}


def shortened(config: Emu2Config) -> Emu2Config:
    """The same network with no more than `TRACED` blocks of each kind, which are all alike."""
    short = copy.deepcopy(config)
    for part in (short.vision_config, short.text_config):
        part.num_hidden_layers = min(part.num_hidden_layers, TRACED)
    return short


def meta_model(config: Emu2Config, dtype: torch.dtype, quantization: str | None) -> Emu2ForConditionalGeneration:
    """A model without memory; with 4-bit layers in the place of the language model's, where asked for."""
    with torch.device("meta"):
        model = Emu2ForConditionalGeneration(config).to(dtype)
        if quantization:
            for layer in model.lm.model.layers:
                for path, linear in list(layer.named_modules()):
                    if isinstance(linear, nn.Linear):
                        parent, _, name = path.rpartition(".")
                        setattr(layer.get_submodule(parent), name, FourBitLinear(linear))
    return model


class FourBitLinear(nn.Linear):
    """Takes the memory of a layer in NF4 with double quantisation, so that a plan needs no bitsandbytes."""

    def __init__(self, linear: nn.Linear):
        super().__init__(linear.in_features, linear.out_features, bias=False)
        weights = linear.weight.numel()
        scales = math.ceil(weights / _NF4_BLOCK)
        self.weight = nn.Parameter(torch.empty(math.ceil(weights / 2), 1, dtype=torch.uint8), requires_grad=False)
        self.register_buffer("scales", torch.empty(scales, dtype=torch.uint8))
        self.register_buffer("scale_scales", torch.empty(math.ceil(scales / _NF4_GROUP)))

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            x = x.to(torch.get_autocast_dtype("cpu"))
        return _FourBitProduct.apply(x, (self.out_features, self.in_features))


class _FourBitProduct(torch.autograd.Function):
    """Unpacks the weight for each product and keeps neither it nor the input."""

    @staticmethod
    def forward(ctx, x: Tensor, shape: tuple[int, int]) -> Tensor:
        ctx.shape = shape
        return F.linear(x, x.new_empty(shape))

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient @ gradient.new_empty(ctx.shape), None


@dataclass
class Unit:
    """What a block, or all that is in no block, holds.

    Attributes:
        frozen: bytes of what does not train, by kind of number.
        trained: numbers that train; trained_bytes: what they take as stored; largest: in one tensor.
    """

    frozen: Counter = field(default_factory=Counter)
    trained: int = 0
    trained_bytes: int = 0
    largest: int = 0

    def gathered(self, itemsize: int) -> int:
        """Bytes of the whole unit on one device, what trains cast to numbers of `itemsize` bytes."""
        return self.frozen.total() + self.trained * itemsize


@dataclass
class Network:
    """A network by its units: one block of each kind, with how many there are, and the rest."""

    units: dict[str, Unit]
    counts: dict[str, int]

    @property
    def trained(self) -> int:
        return sum(unit.trained * self.counts[kind] for kind, unit in self.units.items())

    @property
    def trained_bytes(self) -> int:
        return sum(unit.trained_bytes * self.counts[kind] for kind, unit in self.units.items())

    @property
    def gradient_width(self) -> int:
        """Bytes of one number that trains."""
        return self.trained_bytes // self.trained if self.trained else 4


def measure(model: nn.Module, config: Emu2Config) -> Network:
    """Count a shortened model as the whole one of `config`."""
    units = {TOWER: Unit(), LM: Unit(), REST: Unit()}
    for kind, tensor, four_bit in _tensors(model):
        if kind is None:
            continue
        unit = units[kind]
        if tensor.requires_grad:
            unit.trained += tensor.numel()
            unit.trained_bytes += tensor.nbytes
            unit.largest = max(unit.largest, tensor.numel())
        else:
            unit.frozen["nf4" if four_bit else str(tensor.dtype).removeprefix("torch.")] += tensor.nbytes
    return Network(units, {**depths(config), REST: 1})


def _tensors(model: nn.Module) -> Iterator[tuple[str | None, Tensor, bool]]:
    """Parameters and buffers with the kind of their unit: the first block stands for all, None for the others."""
    for path, module in model.named_modules():
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            found = _BLOCK.search(f"{path}.{name}")
            if found is None:
                kind = REST
            else:
                kind = _KINDS[found[1]] if found[2] == "0" else None
            yield kind, tensor, isinstance(module, FourBitLinear)
