"""A step without memory: the real code runs on tensors that have shapes and no values, and every storage is counted."""

import weakref
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

_aten = torch.ops.aten
_TAKES_MASKS = (
    _aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default,
    _aten._unsafe_index.Tensor, _aten._unsafe_index_put.default,
)  # fmt: skip
_CPU_ATTENTION = _aten._scaled_dot_product_flash_attention_for_cpu
_CPU_ATTENTION_BACKWARD = _aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True)
class Phase:
    """A stretch of a training step.

    Attributes:
        name: `tower block`, `backward of LM block`, `loss`, ...
        block: the number of the block; None outside of blocks.
        held: bytes held at its end beyond those at its start (less than 0: it frees).
        peak: the most bytes held within it beyond those at its start.
        gradients: the part of `held` that is gradients of weights.
        let_go: bytes that it frees of what the second block of each kind made, by that block's phase.
        flops: floating-point operations of its matrix products and attention.
    """

    name: str
    block: int | None
    held: int
    peak: int
    gradients: int
    flops: int
    let_go: dict[str, int] = field(default_factory=dict)

    @property
    def backward(self) -> bool:
        return self.name.startswith("backward")


class StepRecorder(TorchDispatchMode):
    """Counts the storages that live and divides a step into phases.

    Floating tensors are fake (shapes without values). Token ids and masks are real, since how many are learned or
    visual decides shapes.

    Args:
        fake: the mode that the model's parameters were made in.
        parameters: counted as there from the start.
    """

    def __init__(self, fake: FakeTensorMode, parameters: Iterable[Tensor]):
        super().__init__()
        self.phases: list[Phase] = []
        self._fake = fake
        self._parameters = list(parameters)
        self._known: dict[int, weakref.ref] = {}
        self._live = self._peak = self._start = self._flops = 0
        self._name, self._block = "", None
        self._let_go: Counter = Counter()
        for tensor in self._parameters:
            self.count(tensor)
            if tensor.grad is not None:
                self.count(tensor.grad)
        self._start = self._peak = self._live
        self._gradients = self._gradient_bytes()

    @property
    def present(self) -> str:
        """The name of the phase that runs."""
        return self._name

    def begin(self, name: str, block: int | None = None) -> None:
        """End the present phase and start another."""
        gradients = self._gradient_bytes()
        if self._name:
            self.phases.append(
                Phase(
                    self._name, self._block, self._live - self._start, self._peak - self._start,
                    gradients - self._gradients, self._flops, dict(self._let_go),
                )
            )  # fmt: skip
        self._name, self._block = name, block
        self._start = self._peak = self._live
        self._gradients, self._flops, self._let_go = gradients, 0, Counter()

    def count(self, tensor: Tensor) -> None:
        """Count a tensor's storage, once, for as long as it lives."""
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key not in self._known:
            maker = self._name if self._block == 1 else None
            self._known[key] = weakref.ref(storage, lambda _: self._gone(key, size, maker))
            self._live += size
            self._peak = max(self._peak, self._live)

    def _gone(self, key: int, size: int, maker: str | None) -> None:
        del self._known[key]
        self._live -= size
        if maker and (self._name, self._block) != (maker, 1):
            self._let_go[maker] += size

    def _gradient_bytes(self) -> int:
        return sum(tensor.grad.nbytes for tensor in self._parameters if tensor.grad is not None)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if tensors and not any(isinstance(tensor, FakeTensor) for tensor in tensors):
            with no_dispatch():
                out = func(*args, **kwargs)
        else:
            if func in _TAKES_MASKS:
                args = (args[0], _as_numbers(args[1]), *args[2:])
            args, kwargs = tree_map_only(Tensor, self._as_fake, (args, kwargs))
            out = func(*args, **kwargs)
            self._flops += _flops(func, args, kwargs, out)
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.count(leaf)
        return out

    def _as_fake(self, tensor: Tensor) -> Tensor:
        return tensor if isinstance(tensor, FakeTensor) else self._fake.from_tensor(tensor)


def _as_numbers(indices: Iterable[Tensor | None]) -> list[Tensor | None]:
    """Real masks among the indices as row numbers, whose count is a shape."""
    numbers: list[Tensor | None] = []
    for index in indices:
        if index is not None and index.dtype == torch.bool and not isinstance(index, FakeTensor):
            with no_dispatch():
                numbers.extend(index.nonzero(as_tuple=True))
        else:
            numbers.append(index)
    return numbers


def _flops(func, args: tuple, kwargs: dict, out) -> int:
    packet = func._overloadpacket
    if packet is _CPU_ATTENTION:
        return sdpa_flop_count(*(tensor.shape for tensor in args[:3]))
    if packet is _CPU_ATTENTION_BACKWARD:
        return sdpa_backward_flop_count(*(tensor.shape for tensor in args[:4]))
    count = flop_registry.get(packet)
    return count(*args, **kwargs, out_val=out) if count else 0
