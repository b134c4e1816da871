"""4-bit layers: which, how close, and that adapters train on them."""

import pytest
import torch
from torch import nn

from emu2_lit.errors import UserError
from emu2_lit.model import Emu2ForConditionalGeneration
from emu2_lit.model.lora import apply_lora
from emu2_lit.settings import LoraSettings
from tests.model.weight_cases import tiny_model

bitsandbytes = pytest.importorskip("bitsandbytes", reason="the qlora extra is not installed")

IDS = torch.tensor([[1, 5, 9, 11, 40, 33, 2]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny"
    tiny_model(intermediate_size=384).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def quantized(folder):
    return Emu2ForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16, quantization="nf4")


def test_only_the_linears_of_the_blocks_are_packed(quantized):
    packed = {name for name, m in quantized.named_modules() if isinstance(m, bitsandbytes.nn.Linear4bit)}
    linears = {name for name, m in quantized.named_modules() if isinstance(m, nn.Linear)}
    assert len(packed) == 7 * quantized.config.text_config.num_hidden_layers
    assert all(name.startswith("model.decoder.lm.model.layers.") for name in packed)
    left = {name for name in linears - packed if not name.startswith("model.visual.")}
    assert left == {"model.decoder.lm.lm_head", "project_up", "project_down"}
    for name in packed:
        weight = quantized.get_submodule(name).weight
        assert weight.dtype == torch.uint8 and weight.quant_state.nested and weight.quant_type == "nf4"
    assert quantized.project_up.weight.dtype == torch.bfloat16


def test_weights_are_near_those_stored_and_used_as_packed(folder, quantized):
    plain = Emu2ForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16)
    for name, layer in quantized.named_modules():
        if isinstance(layer, bitsandbytes.nn.Linear4bit):
            exact = plain.get_submodule(name).weight
            read = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
            assert read.shape == exact.shape
            assert (read - exact).norm() / exact.norm() < 0.12  # NF4 of a normal distribution: 0.09 to 0.1
            exact.data = read.to(torch.bfloat16)
    with torch.no_grad():
        torch.testing.assert_close(quantized(IDS).logits, plain(IDS).logits, rtol=0.05, atol=0.05)


def test_adapters_train_on_packed_layers(folder):
    model = Emu2ForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16, quantization="nf4")
    wrapped = apply_lora(model, LoraSettings(rank=2, dropout=0.0))
    adapted = wrapped.base_model.model.lm.model.layers[0].self_attn.q_proj
    assert type(adapted).__name__ == "Linear4bit" and type(adapted).__module__.startswith("peft")
    wrapped.train()(IDS, labels=IDS).loss.backward()
    gradients = {n: p.grad for n, p in wrapped.named_parameters() if p.requires_grad and "lora_B" in n}
    assert len(gradients) == 28 and all(g is not None and g.any() for g in gradients.values())


def test_gradients_pass_packed_layers_after_an_evaluation(folder):
    model = Emu2ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, quantization="nf4")
    wrapped = apply_lora(model, LoraSettings(rank=2, dropout=0.0))
    gradients = []
    for _ in range(2):
        wrapped.zero_grad()
        wrapped.train()(IDS, labels=IDS).loss.backward()
        gradients.append({n: p.grad.clone() for n, p in wrapped.named_parameters() if "lora_B" in n})
        with torch.inference_mode():
            wrapped.eval()(IDS)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_sizes_that_are_no_multiple_of_32(tmp_path):
    tiny_model(intermediate_size=344).save_pretrained(tmp_path)
    model = Emu2ForConditionalGeneration.from_pretrained(tmp_path, quantization="nf4")
    with torch.inference_mode():
        assert model(IDS).logits.isfinite().all()


def test_packed_models_are_not_written(quantized, tmp_path):
    for save in (quantized.save_pretrained, quantized.save_native):
        with pytest.raises(UserError, match="4 bits cannot be written"):
            save(tmp_path / "out.safetensors")


def test_unknown_kind(folder):
    with pytest.raises(UserError, match="one of nf4"):
        Emu2ForConditionalGeneration.from_pretrained(folder, quantization="int3")
