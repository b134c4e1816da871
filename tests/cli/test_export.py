"""`export`: what is written says what the adapter on its base says."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from emu2_lit.export import export
from emu2_lit.model import Emu2ForConditionalGeneration, Emu2Processor
from emu2_lit.run import load_run

PROMPT = ["which digit is written here?"]


@torch.inference_mode()
def logits(model, folder) -> torch.Tensor:
    return model.eval()(**Emu2Processor.from_pretrained(folder)(text=PROMPT)).logits


@pytest.fixture(scope="module")
def expected(adapter):
    tuned, _ = load_run(adapter)
    return logits(tuned, adapter)


def test_hf_folder_holds_the_merged_weights(emu2_lit, adapter, weights, expected):
    status, out, _ = emu2_lit("export", adapter, "--to", "hf", "--out", "merged")
    assert status == 0 and "merged" in out
    merged = Emu2ForConditionalGeneration.from_pretrained("merged")
    torch.testing.assert_close(logits(merged, "merged"), expected, atol=1e-5, rtol=1e-4)
    base = Emu2ForConditionalGeneration.from_pretrained(weights)
    assert not torch.allclose(logits(base, weights), expected, atol=1e-2)


def test_native_file_holds_the_merged_weights(emu2_lit, adapter, weights, expected):
    assert emu2_lit("export", adapter, "--to", "native", "--out", "merged.safetensors")[0] == 0
    config = Emu2ForConditionalGeneration.from_pretrained(weights).config
    merged = Emu2ForConditionalGeneration.from_native("merged.safetensors", config=config)
    torch.testing.assert_close(logits(merged, adapter), expected, atol=1e-5, rtol=1e-4)
    assert not any("rotary" in name for name in load_file("merged.safetensors"))


def test_rotary_buffers_on_request(emu2_lit, adapter):
    assert emu2_lit("export", adapter, "--to", "native", "--rotary-buffers", "--out", "with.safetensors")[0] == 0
    assert any("rotary_emb.inv_freq" in name for name in load_file("with.safetensors"))


def test_dtype(emu2_lit, adapter):
    assert emu2_lit("export", adapter, "--to", "native", "--dtype", "bfloat16", "--out", "half.safetensors")[0] == 0
    assert {tensor.dtype for tensor in load_file("half.safetensors").values()} == {torch.bfloat16}


def test_adapter_is_copied_whole(emu2_lit, adapter, tmp_path):
    run = tmp_path / "run"
    assert export(adapter, to="adapter", out=run / "adapter") == run / "adapter"
    assert emu2_lit("export", run, "--to", "adapter")[0] == 0
    written = run / "export" / "adapter"
    assert {file.name for file in written.iterdir()} == {file.name for file in adapter.iterdir()}
    assert json.loads((written / "adapter_config.json").read_text())["r"] == 4


def test_weights_without_adapter_change_their_form(emu2_lit, weights):
    assert emu2_lit("export", weights, "--to", "native", "--out", "plain.safetensors")[0] == 0
    config = Emu2ForConditionalGeneration.from_pretrained(weights).config
    native = Emu2ForConditionalGeneration.from_native("plain.safetensors", config=config).state_dict()
    original = Emu2ForConditionalGeneration.from_pretrained(weights).state_dict()
    assert native.keys() == original.keys()
    assert all(torch.equal(native[name], original[name]) for name in original)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["absent", "--to", "hf", "--out", "new"], "absent"),
        (["absent", "--to", "hf"], "--out"),
        (["WEIGHTS", "--to", "adapter", "--out", "new"], "no adapter here"),
        (["ADAPTER", "--to", "hf", "--no-merge", "--out", "new"], "--to adapter"),
        (["WEIGHTS", "--to", "hf", "--out", "taken"], "taken exists already"),
    ],
)
def test_mistakes(emu2_lit, tmp_path, weights, adapter, arguments, expected):
    (tmp_path / "taken").write_text("mine")
    places = {"WEIGHTS": weights, "ADAPTER": adapter}
    status, _, err = emu2_lit("export", *(places.get(argument, argument) for argument in arguments))
    assert status == 2 and expected in err
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.parametrize("form", ["adapter", "hf"])
def test_a_full_disk_is_seen_before_anything_is_written(emu2_lit, tmp_path, adapter, monkeypatch, form):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    status, _, err = emu2_lit("export", adapter, "--to", form, "--out", "new")
    assert status == 2 and "GB of disk" in err and "0.0 GB free" in err
    assert not Path("new").exists() and not Path(".new.partial").exists()
