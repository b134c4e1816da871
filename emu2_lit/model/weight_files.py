"""Files of weights: which ones a folder holds, and their tensors one by one, without code in them being run."""

import json
import pickle
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from emu2_lit.errors import UserError

PICKLES = (".bin", ".pth", ".pt")
SUFFIXES = (".safetensors", *PICKLES)
_NO_MODEL = ("adapter_model", "training_args", "optimizer", "scheduler", "rng_state")
_SHARD_NUMBER = re.compile(r"-\d+-of-\d+")


@dataclass
class WeightSet:
    """The files that make up one copy of the weights.

    Attributes:
        promised: what an index says is in each file, by the file's name; empty without an index.
    """

    files: list[Path]
    promised: dict[str, set[str]] = field(default_factory=dict)

    @property
    def missing(self) -> list[str]:
        return [file.name for file in self.files if not file.is_file()]

    def preference(self) -> tuple[bool, bool, int]:
        """Sorts whole sets first, then safetensors, then the smaller (a bf16 variant beside float32)."""
        size = sum(file.stat().st_size for file in self.files if file.is_file())
        return bool(self.missing), self.files[0].suffix in PICKLES, size


def is_index(file: Path) -> bool:
    """Whether this is an index of shards; the word of a variant may stand on either side of `index`."""
    return file.suffix == ".json" and ".index" in file.name


def is_weights(file: Path) -> bool:
    """Whether this is a file of a model's weights, by its name."""
    return file.suffix in SUFFIXES and not file.name.startswith((".", *_NO_MODEL))


def find_weights(path: str | Path) -> WeightSet:
    """The weights at a path: one file, or the best set in a folder (or in its `multimodal_encoder/`: Emu2-Gen).

    Raises:
        UserError: nothing is there, or a shard is missing.
    """
    path = Path(path)
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise UserError(f"{path}: not a file of weights; expected one of {', '.join(SUFFIXES)}")
        return WeightSet([path])
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder of weights")
    folder = model_folder(path)
    indexed = [_from_index(file) for file in sorted(folder.glob("*.index*.json"))]
    candidates = indexed + _by_name(folder, known={file for weights in indexed for file in weights.files})
    if not candidates:
        raise UserError(_nothing_in(folder))
    best = min(candidates, key=WeightSet.preference)
    if best.missing:
        raise UserError(
            f"{folder}: {len(best.missing)} of {len(best.files)} files that the index names are missing: "
            f"{', '.join(best.missing[:10])}. Fetch them again"
        )
    return best


def model_folder(folder: Path) -> Path:
    """The folder itself, or where a folder of Emu2-Gen keeps its multimodal model."""
    inner = folder / "multimodal_encoder"
    return inner if inner.is_dir() and not (folder / "config.json").is_file() else folder


def read_tensors(weights: WeightSet) -> Iterator[tuple[str, Tensor]]:
    """Stored name and tensor, file by file. Tensors are mapped from the file, not read: copy what is to be kept.

    Raises:
        UserError: a file is damaged, holds more than tensors, or lacks what the index promises.
    """
    for file in weights.files:
        found = set()
        for name, tensor in _read_safetensors(file) if file.suffix == ".safetensors" else _read_pickle(file):
            found.add(name)
            yield name, tensor
        absent = sorted(weights.promised.get(file.name, set()) - found)
        if absent:
            raise UserError(
                f"{file}: the index says that {len(absent)} tensors are in this file that are not, such as "
                f"{', '.join(absent[:10])}. Fetch the index and the file again"
            )


def _from_index(index: Path) -> WeightSet:
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        promised: dict[str, set[str]] = {}
        for name, file in places.items():
            promised.setdefault(file, set()).add(name)
        return WeightSet([index.parent / file for file in sorted(promised)], promised)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index}: not an index of weights ({error!r}); fetch it again") from error


def _by_name(folder: Path, known: set[Path]) -> list[WeightSet]:
    """Files that no index names; those whose names differ in the shard's number alone belong together."""
    sets: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()):
        if is_weights(file) and file not in known:
            sets.setdefault(_SHARD_NUMBER.sub("", file.name), []).append(file)
    return [WeightSet(files) for files in sets.values()]


def _nothing_in(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return (
            f"{folder}: this is an adapter (PEFT), not a model: give it as model.adapter and the weights that it was "
            "tuned from as model.weights"
        )
    return f"{folder}: no weights here (looked for an index, *.safetensors, {', '.join('*' + s for s in PICKLES)})"


def _read_safetensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118  (not a dict)
                yield name, opened.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file}: damaged or cut short ({error}); fetch it again") from error


def _read_pickle(file: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        mapped = zipfile.is_zipfile(file)  # files of before torch 1.6 cannot be mapped
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{file}: refused, it is damaged or holds more than tensors, and reading that could run code of others "
            f"({str(error).splitlines()[0]})"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        raise UserError(f"{file}: damaged or cut short ({str(error).splitlines()[0]}); fetch it again") from error
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise UserError(f"{file}: not a flat state dict (names and tensors); it cannot be read as weights")
    yield from tensors.items()
