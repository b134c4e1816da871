"""What the tests of weights share: the reference weights, and the forms in which checkpoints come."""

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from emu2_lit.model import Emu2Config, Emu2ForConditionalGeneration
from emu2_lit.model.loading import iterate_tensors
from tests.golden_data import FOLDER, golden_config


def native_file(name: str) -> Path:
    return FOLDER / name / "native_state_dict.safetensors"


def native_tensors(name: str) -> dict[str, Tensor]:
    return load_file(native_file(name))


def published_tensors(name: str) -> dict[str, Tensor]:
    """The reference weights under the Hugging Face names."""
    return {key: tensor.clone() for key, tensor in iterate_tensors(native_file(name))}


def load_native(name: str, **kwargs) -> Emu2ForConditionalGeneration:
    return Emu2ForConditionalGeneration.from_native(native_file(name), config=golden_config(name), **kwargs)


def tiny_model(**text) -> Emu2ForConditionalGeneration:
    """A random model, the size of the tiny preset or with some of its language model's sizes changed."""
    config = Emu2Config.preset("tiny")
    for key, value in text.items():
        setattr(config.text_config, key, value)
    torch.manual_seed(0)
    return Emu2ForConditionalGeneration(config).eval()


def write_published(
    folder: Path,
    tensors: dict[str, Tensor],
    config: Emu2Config | None = None,
    shards: int = 3,
    suffix: str = ".bin",
    stem: str = "pytorch_model",
    index: str | None = "pytorch_model.bin.index.json",
) -> Path:
    """A folder as BAAI published it: flat config.json, sharded weights, and an index unless that is None."""
    folder.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (folder / "config.json").write_text(json.dumps({**config.baai_dict(), "torch_dtype": "float32"}))
    names, places = list(tensors), {}
    for i in range(shards):
        file = f"{stem}-{i + 1:05d}-of-{shards:05d}{suffix}"
        part = {name: tensors[name] for name in names[i::shards]}
        save_file(part, folder / file) if suffix == ".safetensors" else torch.save(part, folder / file)
        places.update(dict.fromkeys(part, file))
    if index:
        (folder / index).write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": places}))
    return folder


def assert_same_weights(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Equal names, types and bytes."""
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert got[name].dtype == tensor.dtype, name
        assert torch.equal(got[name].cpu(), tensor), name


@dataclass
class Peak:
    """How far the process's resident memory rose, pages of mapped files included."""

    bytes: int = 0


measures_memory = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc"
)


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Measure a block; its result is there after the block."""

    def resident(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before, peak = resident("VmRSS"), Peak()
    yield peak
    peak.bytes = resident("VmHWM") - before
