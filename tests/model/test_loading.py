"""Every form in which Emu2's weights come is read, strictly; what is wrong is said in one message."""

import json
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from emu2_lit.errors import UserError
from emu2_lit.model import Emu2Config, Emu2ForConditionalGeneration
from emu2_lit.model.loading import iterate_tensors, load_model, read_config
from tests.golden_data import golden_config
from tests.model.weight_cases import (
    assert_same_weights,
    load_native,
    measures_memory,
    native_file,
    native_tensors,
    peak_memory,
    published_tensors,
    tiny_model,
    write_published,
)

BIN_INDEX = "pytorch_model.bin.index.json"


def refusal(call, *args, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


def load(path, **kwargs) -> Emu2ForConditionalGeneration:
    return load_model(Emu2ForConditionalGeneration, path, **kwargs)


@pytest.mark.parametrize("name", ["base", "chat"])
def test_native_file_gives_the_published_names(name):
    native, state = native_tensors(name), load_native(name).state_dict()
    bias = state["model.visual.blocks.1.attn.qkv.bias"]
    q, k, v = bias.chunk(3)
    assert torch.equal(q, native["visual.blocks.1.attn.q_bias"])
    assert torch.equal(v, native["visual.blocks.1.attn.v_bias"])
    assert not k.any()
    assert torch.equal(state["model.decoder.lm.lm_head.weight"], native["decoder.lm.lm_head.weight"])
    assert torch.equal(state["project_up.weight"], native["project_up.weight"])
    assert not any("inv_freq" in key for key in state)


@pytest.mark.parametrize(
    ("suffix", "stem", "index"),
    [
        (".bin", "pytorch_model", BIN_INDEX),
        (".bin", "pytorch_model", None),
        (".safetensors", "model", "model.safetensors.index.json"),
        (".safetensors", "model.bf16", "model.safetensors.index.bf16.json"),
        (".safetensors", "model.bf16", "model.bf16.safetensors.index.json"),
        (".safetensors", "model", None),
    ],
)
def test_sharded_folders_with_the_flat_config(tmp_path, suffix, stem, index):
    config, tensors = golden_config("chat"), published_tensors("chat")
    write_published(tmp_path, tensors, config, suffix=suffix, stem=stem, index=index)
    model = Emu2ForConditionalGeneration.from_pretrained(tmp_path)
    assert_same_weights(model.state_dict(), tensors)
    assert (model.config.n_query, model.config.v_query, model.config.chat) == (4, 4, True)
    assert model.config.base_vocab_size == config.base_vocab_size


def test_flat_config_gives_the_same_network(tmp_path):
    config = golden_config("base")
    write_published(tmp_path, published_tensors("base"), config)
    read = read_config(tmp_path)
    assert read.vision_config.to_dict() == config.vision_config.to_dict()
    for key in ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "rms_norm_eps"):
        assert getattr(read.text_config, key) == getattr(config.text_config, key)
    ids = torch.tensor([[1, 5, 9, 11]])
    with torch.no_grad():
        expected = load_native("base")(ids).logits
        assert torch.equal(Emu2ForConditionalGeneration.from_pretrained(tmp_path)(ids).logits, expected)


def test_whole_safetensors_come_before_others(tmp_path):
    """A broken set (an index without its files) and pickles do not stand in the way of safetensors."""
    tensors = published_tensors("chat")
    write_published(tmp_path, tensors, golden_config("chat"))
    write_published(tmp_path, tensors, suffix=".safetensors", stem="model", index="model.safetensors.index.json")
    (tmp_path / "pytorch_model-00002-of-00003.bin").write_bytes(b"not weights")
    assert_same_weights(load(tmp_path).state_dict(), tensors)


def test_gen_folder_and_gen_file(tmp_path):
    config, tensors = golden_config("base"), published_tensors("base")
    folder = tmp_path / "Emu2-Gen"
    write_published(
        folder / "multimodal_encoder", tensors, config, suffix=".safetensors", stem="model.bf16",
        index="model.safetensors.index.bf16.json",
    )  # fmt: skip
    (folder / "model_index.json").write_text("{}")
    assert_same_weights(load(folder).state_dict(), tensors)
    flat = {f"multimodal_encoder.{key}": tensor for key, tensor in native_tensors("base").items()}
    flat |= {"unet.conv_in.weight": torch.ones(2), "vae.x": torch.ones(1), "safety_checker.y": torch.ones(1)}
    save_file(flat, tmp_path / "gen.safetensors")
    assert_same_weights(load(tmp_path / "gen.safetensors", config=config).state_dict(), tensors)


def test_pickled_native_files_of_both_ages(tmp_path):
    tensors = native_tensors("chat")
    tensors["visual.position_ids"] = torch.arange(3)
    torch.save(tensors, tmp_path / "native.bin")
    torch.save(tensors, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert zipfile.is_zipfile(tmp_path / "native.bin") and not zipfile.is_zipfile(tmp_path / "old.pth")
    for file in ("native.bin", "old.pth"):
        model = load(tmp_path / file, config=golden_config("chat"))
        assert_same_weights(model.state_dict(), published_tensors("chat"))


def test_projections_inside_the_language_model(tmp_path):
    tensors = native_tensors("chat")
    for name in ("project_up.weight", "project_down.weight"):
        tensors[f"decoder.lm.{name}"] = tensors.pop(name)
    save_file(tensors, tmp_path / "early.safetensors")
    model = load(tmp_path / "early.safetensors", config=golden_config("chat"))
    assert_same_weights(model.state_dict(), published_tensors("chat"))


def test_halves_of_a_bias_in_different_shards(tmp_path):
    write_published(tmp_path, native_tensors("base"), golden_config("base"), shards=7)
    assert_same_weights(dict(iterate_tensors(tmp_path)), published_tensors("base"))


def test_cast_on_the_way_in_and_rotary_tables_stay_exact():
    model = load_native("base", dtype=torch.bfloat16)
    for name, tensor in published_tensors("base").items():
        assert torch.equal(model.state_dict()[name], tensor.bfloat16()), name
    table = 10000.0 ** (-torch.arange(0, 12, 2) / 12)
    torch.testing.assert_close(model.lm.model.rotary_emb.inv_freq, table)
    assert not model.training


def test_model_does_not_lean_on_its_file(tmp_path):
    tensors = published_tensors("chat")
    save_file(tensors, tmp_path / "model.safetensors")
    model = load(tmp_path / "model.safetensors", config=golden_config("chat"))
    with open(tmp_path / "model.safetensors", "r+b") as file:
        file.truncate(100)
    assert_same_weights(model.state_dict(), tensors)


def test_misfits_are_listed(tmp_path):
    tensors = native_tensors("chat")
    del tensors["decoder.lm.model.norm.weight"]
    tensors["visual.head.weight"] = torch.zeros(2)
    tensors["project_up.weight"] = torch.zeros(3, 4)
    tensors |= {f"extra.{i}": torch.zeros(1) for i in range(30)}
    save_file(tensors, tmp_path / "native.safetensors")
    message = refusal(load, tmp_path / "native.safetensors", config=golden_config("chat"))
    assert "1 missing:\n    model.decoder.lm.model.norm.weight" in message
    assert "31 unexpected:\n    extra.0" in message and "... and 21 more" in message
    assert "1 of another shape:\n    project_up.weight [3, 4] instead of [48, 32]" in message


def test_base_weights_for_a_chat_model_are_refused():
    text = dict(golden_config("base").text_config.to_dict(), vocab_size=694)
    config = Emu2Config(vision_config=golden_config("base").vision_config, text_config=text, n_query=16)
    message = refusal(load, native_file("base"), config=config)
    assert "model.decoder.lm.model.embed_tokens.weight [692, 48] instead of [694, 48]" in message


def test_half_a_bias(tmp_path):
    tensors = native_tensors("chat")
    del tensors["visual.blocks.0.attn.v_bias"]
    save_file(tensors, tmp_path / "native.safetensors")
    assert "model.visual.blocks.0.attn: q_bias is there without" in refusal(
        load, tmp_path / "native.safetensors", config=golden_config("chat")
    )


def test_no_configuration(tmp_path):
    assert "model.preset" in refusal(load, native_file("chat"))
    write_published(tmp_path, published_tensors("chat"))
    assert "no config.json" in refusal(load, tmp_path)
    assert_same_weights(load(tmp_path, config=golden_config("chat")).state_dict(), published_tensors("chat"))


@pytest.mark.parametrize("content", ["{", '{"hidden_size": 8}', "[]", '{"vision_config": 3}'])
def test_wrong_configuration(tmp_path, content):
    write_published(tmp_path, published_tensors("chat"))
    (tmp_path / "config.json").write_text(content)
    assert str(tmp_path / "config.json") in refusal(load, tmp_path)


def test_nothing_there(tmp_path):
    config = golden_config("chat")
    assert "no weights here" in refusal(load, tmp_path, config=config)
    assert "no such file or folder" in refusal(load, tmp_path / "nowhere", config=config)
    (tmp_path / "notes.txt").write_text("hello")
    assert "not a file of weights" in refusal(load, tmp_path / "notes.txt", config=config)


def test_adapters_are_sent_elsewhere(tmp_path):
    save_file({"base_model.model.lm.lora_A.weight": torch.ones(1)}, tmp_path / "adapter.safetensors")
    assert "model.adapter" in refusal(load, tmp_path / "adapter.safetensors", config=golden_config("chat"))
    (tmp_path / "adapter.safetensors").rename(tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "model.adapter" in refusal(load, tmp_path, config=golden_config("chat"))


def test_missing_shard(tmp_path):
    write_published(tmp_path, published_tensors("chat"), golden_config("chat"))
    (tmp_path / "pytorch_model-00002-of-00003.bin").unlink()
    assert "1 of 3 files that the index names are missing: pytorch_model-00002-of-00003.bin" in refusal(load, tmp_path)


def test_index_that_promises_too_much(tmp_path):
    write_published(tmp_path, published_tensors("chat"), golden_config("chat"))
    index = json.loads((tmp_path / BIN_INDEX).read_text())
    index["weight_map"]["ghost.weight"] = "pytorch_model-00002-of-00003.bin"
    (tmp_path / BIN_INDEX).write_text(json.dumps(index))
    message = refusal(load, tmp_path)
    assert "pytorch_model-00002-of-00003.bin" in message and "ghost.weight" in message
    (tmp_path / BIN_INDEX).write_text('{"weight_map": 3}')
    assert "not an index" in refusal(load, tmp_path)


@pytest.mark.parametrize("kept", [4, 300, 20_000])
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_cut_files(tmp_path, suffix, kept):
    write_published(tmp_path, published_tensors("chat"), golden_config("chat"), suffix=suffix, index=None)
    damaged = tmp_path / f"pytorch_model-00002-of-00003{suffix}"
    damaged.write_bytes(damaged.read_bytes()[:kept])
    assert str(damaged) in refusal(load, tmp_path)


class Harmful:
    """Runs a command if it is unpickled without care."""

    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return (exec, (f"open({str(self.witness)!r}, 'w').close()",))


def test_pickles_run_no_code(tmp_path):
    torch.save({"x": Harmful(tmp_path / "witness")}, tmp_path / "zip.bin")
    (tmp_path / "plain.bin").write_bytes(pickle.dumps(Harmful(tmp_path / "witness")))
    for file in ("zip.bin", "plain.bin"):
        assert "refused" in refusal(load, tmp_path / file, config=golden_config("chat"))
    assert not (tmp_path / "witness").exists()


def test_other_pickles(tmp_path):
    torch.save({"model": published_tensors("chat")}, tmp_path / "nested.bin")
    assert "not a flat state dict" in refusal(load, tmp_path / "nested.bin", config=golden_config("chat"))


def test_other_sizes(tmp_path):
    """A model with grouped key-value heads goes through its own folder."""
    model = tiny_model(num_key_value_heads=2, num_hidden_layers=2)
    model.save_pretrained(tmp_path)
    assert_same_weights(load(tmp_path).state_dict(), model.state_dict())


@measures_memory
@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_no_second_copy_in_memory(tmp_path, suffix):
    """A float32 checkpoint read as bfloat16 takes the model and little more than one mapped shard."""
    config = Emu2Config.preset("tiny")
    config.text_config.intermediate_size, config.text_config.num_hidden_layers = 16384, 12
    with torch.device("meta"):
        shapes = Emu2ForConditionalGeneration(config).state_dict()
    tensors = {name: torch.ones(tensor.shape) for name, tensor in shapes.items()}
    stored, shards = sum(tensor.nbytes for tensor in tensors.values()), 8
    write_published(tmp_path, tensors, config, shards=shards, suffix=suffix)
    del tensors
    with peak_memory() as peak:
        model = load(tmp_path, dtype=torch.bfloat16)
    assert sum(parameter.nbytes for parameter in model.parameters()) == stored / 2
    assert peak.bytes < stored / 2 + 2 * stored / shards
