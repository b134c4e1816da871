"""Writing weights: tensor by tensor, so that no copy of the whole is made, and whole files or none."""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from emu2_lit.errors import UserError

Layout = dict[str, tuple[torch.dtype, tuple[int, ...]]]  # name -> type and shape

INDEX = "model.safetensors.index.json"
SHARD_SIZE = "5GB"
_CODES = {
    torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def layout_of(tensors: Iterable[tuple[str, Tensor]], dtype: torch.dtype | None = None) -> Layout:
    """What will be written of these tensors; floating ones in `dtype`, where given."""
    return {
        name: (dtype if dtype and tensor.is_floating_point() else tensor.dtype, tuple(tensor.shape))
        for name, tensor in tensors
    }


def layout_bytes(layout: Layout) -> int:
    """Bytes of the tensors of a layout."""
    return sum(dtype.itemsize * torch.Size(shape).numel() for dtype, shape in layout.values())


def require_space(path: Path, size: int, what: str) -> None:
    """Raises UserError unless `size` bytes are free on the file system of `path`, which need not exist yet."""
    path = path.absolute()
    while not path.is_dir():
        path = path.parent
    free = shutil.disk_usage(path).free
    if free < size:
        raise UserError(
            f"{what} needs {size / 1e9:.1f} GB of disk and {path} has {free / 1e9:.1f} GB free: make room or choose "
            "another place"
        )


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its name only once it is complete and on the disk.

    Raises:
        UserError: it cannot be written; what had the name before stands.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
        raise UserError(f"{path}: cannot be written ({error})") from error
    finally:
        with contextlib.suppress(OSError):  # not there any more, or never was
            partial.unlink()


def write_safetensors(
    path: Path, layout: Layout, tensors: Iterable[tuple[str, Tensor]], metadata: dict[str, str] | None = None
) -> None:
    """Write one safetensors file from a stream of the tensors in `layout`, cast to its types, in any order."""
    header: dict[str, dict] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    end = 0
    # larger types first, so that every tensor is aligned
    for name, (dtype, shape) in sorted(layout.items(), key=lambda item: (-item[1][0].itemsize, item[0])):
        begin, end = end, end + dtype.itemsize * torch.Size(shape).numel()
        header[name] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with whole_file(path) as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        start = file.tell()
        for name, tensor in tensors:
            file.seek(start + header[name]["data_offsets"][0])
            file.write(_raw(tensor, layout[name][0]))


def write_shards(
    folder: Path,
    layout: Layout,
    tensors: Iterator[tuple[str, Tensor]],
    max_shard_size: int | str = SHARD_SIZE,
    source: str = "",
) -> None:
    """Write safetensors shards and their index, or one file if all fits.

    Args:
        tensors: in the order of `layout`.
        source: says what the tensors are of; shards of the same source that are there already are left as they are.
    """
    shards = split(layout, max_shard_size)
    names = _shard_names(len(shards))
    for name, shard in zip(names, shards, strict=True):
        file, part = folder / name, islice(tensors, len(shard))
        if source and _is_done(file, shard, source):
            for _ in part:  # mapped, not read
                pass
        else:
            write_safetensors(file, shard, part, {"source": source} if source else None)
    if len(shards) > 1:
        places = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        write_json(folder / INDEX, {"metadata": {"total_size": layout_bytes(layout)}, "weight_map": places})


def missing_bytes(folder: Path, layout: Layout, source: str, max_shard_size: int | str = SHARD_SIZE) -> int:
    """Bytes that `write_shards` has still to write."""
    shards = split(layout, max_shard_size)
    files = [folder / name for name in _shard_names(len(shards))]
    return sum(
        layout_bytes(shard) for file, shard in zip(files, shards, strict=True) if not _is_done(file, shard, source)
    )


def write_json(path: Path, values: dict) -> None:
    """Write a JSON file, whole or not at all."""
    with whole_file(path) as file:
        file.write((json.dumps(values, indent=2) + "\n").encode())


def split(layout: Layout, max_shard_size: int | str) -> list[Layout]:
    """Cut a layout, in its order, into shards of at most that many bytes (one tensor may be larger)."""
    limit = _as_bytes(max_shard_size)
    shards: list[Layout] = [{}]
    size = 0
    for name, entry in layout.items():
        added = layout_bytes({name: entry})
        if shards[-1] and size + added > limit:
            shards.append({})
            size = 0
        shards[-1][name] = entry
        size += added
    return shards


def _shard_names(count: int) -> list[str]:
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]


def _as_bytes(size: int | str) -> int:
    number = re.fullmatch(r"([\d.]+)\s*([A-Za-z]*)", str(size))
    if not number or number[2].upper() not in _UNITS:
        raise UserError(f"max_shard_size: {size!r} is not a size such as 5GB or a number of bytes")
    return int(float(number[1]) * _UNITS[number[2].upper()])


def _is_done(file: Path, layout: Layout, source: str) -> bool:
    try:
        with safe_open(file, framework="pt") as opened:
            if (opened.metadata() or {}).get("source") != source or set(opened.keys()) != set(layout):
                return False
            slices = {name: opened.get_slice(name) for name in layout}
            return all(
                (part.get_dtype(), tuple(part.get_shape())) == (_CODES[layout[name][0]], layout[name][1])
                for name, part in slices.items()
            )
    except (SafetensorError, OSError):
        return False


def _raw(tensor: Tensor, dtype: torch.dtype) -> memoryview:
    tensor = tensor.detach().to("cpu", dtype).contiguous()
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())
