"""Where each part of a model lies: one device, several, main memory, or the disk."""

import shutil
import tempfile
import warnings
import weakref
from pathlib import Path

import torch
from accelerate import dispatch_model
from accelerate.utils import get_max_memory, offload_weight, save_offload_index
from torch import Tensor, nn

from emu2_lit.errors import UserError
from emu2_lit.model.quantization import BYTES_PER_WEIGHT, is_quantized, quantize
from emu2_lit.model.weight_writing import require_space

Device = str | int | torch.device
_OFFLOADED = ("cpu", "disk")
_FOR_WEIGHTS = 0.9  # of a device's free memory; the rest is for activations and the key-value cache


class Placement:
    """Puts tensors where a device map says.

    Args:
        model: on the meta device; filled by `put`.
        device_map: "auto", or devices ("cpu" and "disk" among them) by the name of a module or parameter, "" for what
            is left; the longest name holds.
        dtype: of floating tensors; default as they come.
        offload_folder: for "disk"; default a temporary one that goes with the model.
    Raises:
        UserError: the map names a device that is not there, leaves a parameter out, divides a block, or offloads
            layers held in 4 bits.
    """

    def __init__(
        self, model: nn.Module, device_map: str | dict[str, Device], dtype: torch.dtype | None = None,
        offload_folder: str | Path | None = None,
    ):  # fmt: skip
        if isinstance(device_map, str) and device_map != "auto":
            raise UserError(f"device_map: unknown value {device_map!r}; `auto`, or devices by module name")
        self.model, self.dtype = model, dtype
        self.device_map = auto_device_map(model, dtype) if device_map == "auto" else dict(device_map)
        devices = [device for device in self.device_map.values() if str(device) not in _OFFLOADED]
        self.main_device: Device = devices[0] if devices else "cpu"
        self._on_disk: dict[str, dict] = {}
        self._check()
        self._folder = self._offload_folder(offload_folder) if "disk" in self.device_map.values() else None

    def device_of(self, name: str) -> Device | None:
        """The device of a module or parameter, by the longest name in the map that it lies under."""
        while name and name not in self.device_map:
            name = name.rpartition(".")[0]
        return self.device_map.get(name)

    def resident_device(self, name: str) -> Device:
        """Where a module computes, though its weights may wait elsewhere."""
        device = self.device_of(name)
        return self.main_device if device is None or str(device) in _OFFLOADED else device

    def put(self, name: str, tensor: Tensor) -> None:
        """Cast a tensor and make it the parameter of that name, on its device."""
        module_name, _, leaf = name.rpartition(".")
        module, device = self.model.get_submodule(module_name), self.device_of(name)
        dtype = self.dtype if self.dtype and tensor.is_floating_point() else tensor.dtype
        if is_quantized(getattr(module, leaf)):
            parameter = quantize(module, tensor.to(dtype), device)
        elif device == "disk":
            offload_weight(tensor.to(dtype), name, self._folder, index=self._on_disk)
            parameter = nn.Parameter(torch.empty_like(tensor, dtype=dtype, device="meta"))
        else:  # copied, for `tensor` may be a view of the file
            parameter = nn.Parameter(tensor.to(device, dtype, copy=True, memory_format=torch.contiguous_format))
        setattr(module, leaf, parameter)

    def dispatch(self) -> None:
        """Make the model move its inputs to where its layers are, where they are in several places."""
        if self._folder:
            save_offload_index(self._on_disk, self._folder)
        if self._folder or len(set(map(str, self.device_map.values()))) > 1:
            blocks = _block_sizes(self.model, self.dtype)
            parts = [*blocks, *_outside(self.model, blocks)]  # accelerate wants names that do not hold each other
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*do not match any submodules.*")  # some are parameters
                dispatch_model(
                    self.model, {name: self.device_of(name) for name in parts}, main_device=self.main_device,
                    offload_dir=self._folder, skip_keys="past_key_values",
                )  # fmt: skip

    def _check(self) -> None:
        for device in set(self.device_map.values()) - {"disk"}:
            _check_device(device)
        for name, parameter in self.model.named_parameters():
            device = self.device_of(name)
            if device is None:
                raise UserError(f"device_map: no device for {name}")
            if is_quantized(parameter) and str(device) != str(self.resident_device(name)):
                raise UserError(
                    f"device_map: {name} is held in 4 bits and cannot wait in main memory or on disk: the model does "
                    "not fit these devices. Use another device, or 16 bits with offload"
                )
        for block in _block_sizes(self.model, self.dtype):
            if any(name.startswith(f"{block}.") for name in self.device_map):
                raise UserError(f"device_map: {block} cannot be divided; give one device for the whole block")

    def _offload_folder(self, folder: str | Path | None) -> str:
        if folder is None:
            folder = tempfile.mkdtemp(prefix="emu2-offload-")
            weakref.finalize(self.model, shutil.rmtree, folder, ignore_errors=True)
        parameters = self.model.named_parameters()
        size = sum(stored_bytes(p, self.dtype) for name, p in parameters if self.device_of(name) == "disk")
        require_space(Path(folder), size, "offloading")
        Path(folder).mkdir(parents=True, exist_ok=True)
        return str(folder)


def _check_device(device: Device) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device_map: {device} is no device of this machine ({reason})") from error


def stored_bytes(parameter: Tensor, dtype: torch.dtype | None) -> int:
    """Bytes that a parameter will take."""
    if is_quantized(parameter):
        return int(parameter.numel() * BYTES_PER_WEIGHT)
    return parameter.numel() * (dtype or parameter.dtype).itemsize


def auto_device_map(
    model: nn.Module, dtype: torch.dtype | None = None, max_memory: dict[Device, int] | None = None
) -> dict[str, Device]:
    """Fill the accelerators one after another, then main memory, then the disk.

    Whole blocks are placed; all that is not in a block (embeddings, projections, norms, output layer) stays on the
    first device, where inputs arrive and where these parts meet each other.

    Args:
        model: on the meta device; `_no_split_modules` names the classes of its blocks.
        max_memory: bytes by device, accelerators first, then "cpu"; default what is free now.
    Raises:
        UserError: not even those parts fit the first device.
    """
    free = {device: int(size * _FOR_WEIGHTS) for device, size in (max_memory or get_max_memory()).items()}
    blocks = _block_sizes(model, dtype)
    total = sum(stored_bytes(parameter, dtype) for parameter in model.parameters())
    main = next(iter(free))
    if total <= free[main]:
        return {"": main}
    free[main] -= total - sum(blocks.values())
    if total > sum(size for device, size in free.items() if device != "cpu"):
        free[main] -= max(blocks.values())  # offloaded blocks come here one at a time
    if free[main] < 0:
        raise UserError(
            f"device_map: {main} is too small, even for the embeddings and one block of the model at a time"
        )
    device_map: dict[str, Device] = dict.fromkeys(_outside(model, blocks), main)
    devices = iter(free)
    device = next(devices)
    for name, size in blocks.items():
        while device != "disk" and size > free[device]:
            device = next(devices, "disk")
        device_map[name] = device
        if device != "disk":
            free[device] -= size
    return device_map


def _block_sizes(model: nn.Module, dtype: torch.dtype | None) -> dict[str, int]:
    return {
        name: sum(stored_bytes(parameter, dtype) for parameter in module.parameters())
        for name, module in model.named_modules()
        if type(module).__name__ in model._no_split_modules
    }


def _outside(model: nn.Module, blocks: dict[str, int]) -> list[str]:
    """Names of leaf modules, and of parameters that a larger module holds itself, outside the blocks."""
    names = []
    for name, _ in model.named_parameters():
        if not any(name.startswith(f"{block}.") for block in blocks):
            owner = name.rpartition(".")[0]
            names.append(name if any(model.get_submodule(owner).children()) else owner)
    return list(dict.fromkeys(names))
