"""Fetching from a hub (one on this machine) and converting, in bounded memory."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from emu2_lit import weights
from emu2_lit.errors import UserError
from emu2_lit.model import Emu2ForConditionalGeneration
from tests.golden_data import golden_config
from tests.hub import hub
from tests.model.weight_cases import (
    assert_same_weights,
    measures_memory,
    native_file,
    native_tensors,
    peak_memory,
    published_tensors,
    write_published,
)

REPOSITORY = "BAAI/Emu2-Chat"


@pytest.fixture
def published(tmp_path):
    """The reference model as BAAI published theirs: float32, .bin shards, tokenizer and code beside them."""
    folder = write_published(tmp_path / "published", published_tensors("chat"), golden_config("chat"))
    (folder / "tokenizer.model").write_bytes(b"pieces")
    return folder


# -- fetch ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The hub's cache, empty and in a folder of the test."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "cache"


@contextmanager
def served(folder, monkeypatch, **kwargs):
    """The folder on a hub that fetching goes to; gives the list of requests."""
    with hub(folder, REPOSITORY, **kwargs) as (endpoint, requests):
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield requests


def downloads(requests: list[str], suffix: str = "") -> list[str]:
    return [request for request in requests if request.startswith(f"GET /{REPOSITORY}/") and request.endswith(suffix)]


def test_fetch_and_find_again(published, cache, monkeypatch):
    save_file(published_tensors("chat"), published / "model.safetensors")
    with served(published, monkeypatch) as requests:
        folder = weights.fetch(REPOSITORY)
    assert downloads(requests, ".safetensors") and not downloads(requests, ".bin")
    assert cache in folder.parents
    assert_same_weights(Emu2ForConditionalGeneration.from_pretrained(folder).state_dict(), published_tensors("chat"))
    assert weights.local_folder(REPOSITORY) == folder


def test_fetch_to_a_folder_and_twice(tmp_path, published, cache, monkeypatch):
    with served(published, monkeypatch) as requests:
        for _ in range(2):
            assert weights.fetch(REPOSITORY, tmp_path / "here") == tmp_path / "here"
    assert len(downloads(requests, ".bin")) == 3
    model = Emu2ForConditionalGeneration.from_pretrained(tmp_path / "here")
    assert_same_weights(model.state_dict(), published_tensors("chat"))


def test_fetch_looks_at_the_disk_first(published, cache, monkeypatch):
    with served(published, monkeypatch, sizes={"pytorch_model-00001-of-00003.bin": 10**18}) as requests:
        with pytest.raises(UserError, match=r"needs 1000000000\.0 GB of disk"):
            weights.fetch(REPOSITORY)
    assert not downloads(requests)


def test_fetch_of_what_is_not_there(published, cache, monkeypatch):
    with served(published, monkeypatch):
        for name, said in (("BAAI/Emu9", "RepositoryNotFound"), ("a/b/c", "HFValidation")):
            with pytest.raises(UserError, match=f"{name}: cannot be fetched from the hub .{said}"):
                weights.fetch(name)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="cannot be fetched from the hub .OfflineModeIsEnabled.*HF_ENDPOINT"):
        weights.fetch(REPOSITORY)


def test_mirrors_are_named_by_the_environment(tmp_path, published):
    program = f"from emu2_lit import weights; print(weights.fetch({REPOSITORY!r}))"
    with hub(published, REPOSITORY) as (endpoint, requests):
        environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
        printed = subprocess.check_output([sys.executable, "-c", program], env=environment, text=True, timeout=120)
    assert len(downloads(requests, ".bin")) == 3
    assert str(tmp_path) in printed


@pytest.mark.parametrize("name", ["BAAI/never-fetched", "runs/my/typo", "nothing"])
def test_not_fetched_yet(name, cache):
    with pytest.raises(UserError, match="emu2-lit weights fetch"):
        weights.local_folder(name)


# -- convert -------------------------------------------------------------------------------------------------------
def test_convert(tmp_path, published):
    target = weights.convert(published, tmp_path / "bf16", max_shard_size="50KB")
    tensors = {name: tensor.bfloat16() for name, tensor in published_tensors("chat").items()}
    model = Emu2ForConditionalGeneration.from_pretrained(target)
    assert_same_weights(model.state_dict(), tensors)
    assert not list(target.glob("*.bin*")) and len(list(target.glob("*.safetensors"))) > 2
    assert (target / "tokenizer.model").read_bytes() == b"pieces"
    assert json.loads((target / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_convert_goes_on_where_it_stopped(tmp_path, published):
    target = weights.convert(published, tmp_path / "bf16", max_shard_size="50KB")
    shards = sorted(target.glob("*.safetensors"))
    whole = {file.name: file.read_bytes() for file in target.iterdir()}
    shards[1].write_bytes(shards[1].read_bytes()[:1000])
    (target / "config.json").unlink()
    before = {file: file.stat().st_mtime_ns for file in shards}
    weights.convert(published, target, max_shard_size="50KB")
    assert {file.name: file.read_bytes() for file in target.iterdir()} == whole
    assert {file for file in shards if file.stat().st_mtime_ns != before[file]} == {shards[1]}


def test_convert_does_not_keep_shards_of_another_source(tmp_path, published):
    target = weights.convert(published, tmp_path / "bf16")
    other = {name: tensor + 1 for name, tensor in published_tensors("chat").items()}
    write_published(published, other, golden_config("chat"))
    weights.convert(published, target)
    expected = {name: tensor.bfloat16() for name, tensor in other.items()}
    assert_same_weights(load_file(target / "model.safetensors"), expected)


def test_convert_native_file_in_float32(tmp_path):
    torch.save(native_tensors("base"), tmp_path / "native.bin")
    target = weights.convert(tmp_path / "native.bin", tmp_path / "out", dtype="float32")
    assert_same_weights(load_file(target / "model.safetensors"), published_tensors("base"))


def test_convert_refuses(tmp_path, published):
    with pytest.raises(UserError, match="is the source itself"):
        weights.convert(published, published)
    (published / "pytorch_model-00003-of-00003.bin").unlink()
    with pytest.raises(UserError, match="missing: pytorch_model-00003-of-00003.bin"):
        weights.convert(published, tmp_path / "bf16")
    with pytest.raises(UserError, match="no weights here"):
        weights.convert(tmp_path, tmp_path / "bf16")
    assert not (tmp_path / "bf16").exists()
    assert native_file("chat").is_file()


@measures_memory
def test_convert_in_less_memory_than_two_shards(tmp_path):
    """12 shards of 32 MiB in float32; holding the model would take 384 MiB."""
    shards, rows, size = 12, 8, 2**20
    tensors = {f"model.visual.{i:03d}": torch.full((size,), float(i)) for i in range(shards * rows)}
    source = write_published(tmp_path / "source", tensors, shards=shards)
    del tensors
    with peak_memory() as peak:
        weights.convert(source, tmp_path / "bf16", max_shard_size=2 * rows * size)
    assert peak.bytes < 2 * 4 * rows * size
    files = sorted((tmp_path / "bf16").glob("model-*.safetensors"))
    assert len(files) == shards
    for file in files:
        for name, tensor in load_file(file).items():
            assert tensor.dtype == torch.bfloat16 and tensor.unique().tolist() == [float(name[-3:])]
