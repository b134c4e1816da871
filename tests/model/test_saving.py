"""Weights go out in the published forms, whole or not at all, and come back to the byte."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from emu2_lit.errors import UserError
from emu2_lit.model import Emu2Config, Emu2ForConditionalGeneration, weight_writing
from emu2_lit.model.weight_files import find_weights
from tests.golden_data import golden_config
from tests.model.weight_cases import assert_same_weights, load_native, native_tensors, tiny_model

ROTARY = "rotary_emb.inv_freq"
names = pytest.mark.parametrize("name", ["base", "chat"])


@names
def test_native_to_folder_to_native(tmp_path, name):
    model = load_native(name)
    model.save_pretrained(tmp_path / "hf", max_shard_size="100KB")
    again = Emu2ForConditionalGeneration.from_pretrained(tmp_path / "hf")
    assert_same_weights(again.state_dict(), model.state_dict())
    again.save_native(tmp_path / "native.safetensors")
    again.save_native(tmp_path / "native.bin")
    learned = {key: tensor for key, tensor in native_tensors(name).items() if ROTARY not in key}
    assert_same_weights(load_file(tmp_path / "native.safetensors"), learned)
    assert_same_weights(torch.load(tmp_path / "native.bin", weights_only=True), learned)


def test_rotary_buffers_on_request(tmp_path):
    """All names that strict loading in transformers 4.31 wants; the reference's own tables hold random numbers."""
    model = load_native("base")
    model.save_native(tmp_path / "native.safetensors", rotary_buffers=True)
    written = load_file(tmp_path / "native.safetensors")
    assert written.keys() == native_tensors("base").keys()
    tables = [tensor for key, tensor in written.items() if ROTARY in key]
    assert len(tables) == 3
    for table in tables:
        assert torch.equal(table, model.lm.model.rotary_emb.inv_freq)


def test_shards_and_index(tmp_path):
    model = load_native("chat")
    model.save_pretrained(tmp_path / "hf", max_shard_size=100_000)
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 2 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert index["metadata"]["total_size"] == sum(t.numel() * 4 for t in model.state_dict().values())
    for file in files:
        with safe_open(tmp_path / "hf" / file, "pt") as opened:
            promised = {key for key, place in index["weight_map"].items() if place == file}
            assert set(opened.keys()) == promised and opened.metadata() == {"format": "pt"}
            sizes = [opened.get_tensor(key).nbytes for key in opened.keys()]  # noqa: SIM118
        assert sum(sizes) <= 100_000 or len(sizes) == 1


def test_config_for_us_and_for_the_published_code(tmp_path):
    config = golden_config("chat")
    load_native("chat").save_pretrained(tmp_path / "hf", dtype=torch.bfloat16)
    values = json.loads((tmp_path / "hf" / "config.json").read_text())
    flat = dict(
        num_key_value_heads=4, d_model=32, hidden_size=48, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, vocab_size=694, model_version="chat", rope_theta=10000.0, pad_token_id=420,
        torch_dtype="bfloat16",
    )  # fmt: skip
    assert {key: values[key] for key in flat} == flat
    tower = dict(
        image_size=56, patch_size=14, width=32, layers=2, head_width=8, mlp_ratio=4.0, qkv_bias=True,
        drop_path_rate=0.0, layer_norm_eps=1e-6, postnorm=True, n_query=4, v_query=4,
    )  # fmt: skip
    assert {key: values["vision_config"][key] for key in tower} == tower
    again = Emu2Config.from_pretrained(tmp_path / "hf")
    assert again.vision_config.to_dict() == config.vision_config.to_dict()
    assert (again.n_query, again.base_vocab_size, again.chat) == (4, 420, True)
    assert again.dtype == torch.bfloat16


def test_model_card(tmp_path):
    load_native("base").save_pretrained(tmp_path / "hf")
    card = (tmp_path / "hf" / "README.md").read_text()
    assert "LLaMA-1" in card and "non-commercial" in card and "Apache-2.0" in card
    assert "16 visual" in card and "692 tokens" in card and "float32" in card


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_cast_on_the_way_out(tmp_path, dtype):
    model = load_native("chat")
    model.save_pretrained(tmp_path / "hf", dtype=dtype)
    model.save_native(tmp_path / "native.safetensors", dtype=dtype)
    expected = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    assert_same_weights(load_file(tmp_path / "hf" / "model.safetensors"), expected)
    reloaded = Emu2ForConditionalGeneration.from_native(tmp_path / "native.safetensors", config=model.config)
    assert_same_weights(reloaded.state_dict(), expected)
    assert model.dtype == torch.float32


def test_mixed_types_stay_aligned(tmp_path):
    model = tiny_model().to(torch.bfloat16)
    model.project_up.float()
    model.save_pretrained(tmp_path / "hf")
    assert_same_weights(load_file(tmp_path / "hf" / "model.safetensors"), dict(model.state_dict()))


def test_bias_of_the_keys_cannot_go_native(tmp_path):
    model = load_native("chat")
    with torch.no_grad():
        model.visual.blocks[1].attn.qkv.bias[32] = 1e-3
    with pytest.raises(UserError, match=r"model\.visual\.blocks\.1\.attn\.qkv\.bias"):
        model.save_native(tmp_path / "native.safetensors")
    assert not list(tmp_path.iterdir())
    model.save_pretrained(tmp_path / "hf")


def test_processor_goes_along(tmp_path):
    from emu2_lit.model import Emu2Processor

    model = tiny_model()
    model.save_pretrained(tmp_path / "hf", processor=Emu2Processor.for_config(model.config))
    again = Emu2Processor.from_pretrained(tmp_path / "hf")
    assert again.n_query == model.config.n_query


def test_saving_again_leaves_nothing_of_the_first(tmp_path):
    folder = tmp_path / "hf"
    tiny_model().save_pretrained(folder, max_shard_size="200KB")
    (folder / "mine.txt").write_text("kept")
    second = tiny_model(num_hidden_layers=2)
    second.save_pretrained(folder)
    assert [file.name for file in find_weights(folder).files] == ["model.safetensors"]
    again = Emu2ForConditionalGeneration.from_pretrained(folder)
    assert_same_weights(again.state_dict(), dict(second.state_dict()))
    assert sorted(file.name for file in folder.iterdir()) == [
        "README.md", "config.json", "mine.txt", "model.safetensors",
    ]  # fmt: skip
    assert [file.name for file in tmp_path.iterdir()] == ["hf"]


def test_full_disk_is_noticed_before_writing(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(weight_writing.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    model = load_native("chat")
    for save in (model.save_pretrained, model.save_native):
        with pytest.raises(UserError, match="0.0 GB free"):
            save(tmp_path / "out.safetensors")
    assert not list(tmp_path.iterdir())


def test_interrupted_write_keeps_the_earlier_file(tmp_path):
    model = load_native("chat")
    file = tmp_path / "native.safetensors"
    model.save_native(file)
    before = file.read_bytes()
    layout = {"a": (torch.float32, (2,)), "b": (torch.float32, (2,))}

    def stream():
        yield "a", torch.ones(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        weight_writing.write_safetensors(file, layout, stream())
    assert file.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["native.safetensors"]


def test_places_that_cannot_be_written(tmp_path):
    model = load_native("chat")
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match="is a file"):
        model.save_pretrained(tmp_path / "taken")
    with pytest.raises(UserError, match="cannot be written"):
        model.save_native(tmp_path / "taken" / "native.safetensors")
    with pytest.raises(UserError, match=r"choose one of \.safetensors, \.bin"):
        model.save_native(tmp_path / "native.onnx")
    with pytest.raises(UserError, match="max_shard_size"):
        model.save_pretrained(tmp_path / "hf", max_shard_size="five")
