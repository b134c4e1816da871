"""The decoder is read from every published form, strictly, and written so that it is read again."""

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from emu2_lit.errors import UserError
from emu2_lit.model import Emu2DecoderConfig, Emu2VisualDecoder
from emu2_lit.model.safety import withhold_unsafe
from tests.model.decoder_cases import (
    CHECKER,
    decoder_tensors_of_reference,
    gen_file,
    gen_folder,
    reference_decoder_config,
)
from tests.model.weight_cases import assert_same_weights

UNET = "unet/diffusion_pytorch_model.bf16.safetensors"


@pytest.fixture
def folder(tmp_path):
    return gen_folder(tmp_path / "gen")


def with_checker() -> Emu2VisualDecoder:
    """Random weights, and a safety checker that objects to nothing."""
    torch.manual_seed(0)
    config = Emu2DecoderConfig.preset("tiny")
    config.safety_checker = CHECKER
    decoder = Emu2VisualDecoder(config).eval()
    decoder.safety_checker.concept_embeds_weights.data.fill_(2.0)
    decoder.safety_checker.special_care_embeds_weights.data.fill_(2.0)
    return decoder


def refusal(*arguments, **options) -> str:
    with pytest.raises(UserError) as caught:
        Emu2VisualDecoder.from_pretrained(*arguments, **options)
    return str(caught.value)


def test_folder_and_file_hold_the_same(folder, tmp_path):
    expected = decoder_tensors_of_reference()
    assert_same_weights(Emu2VisualDecoder.from_pretrained(folder).state_dict(), expected)
    file = gen_file(tmp_path / "gen.safetensors")
    assert_same_weights(Emu2VisualDecoder.from_native(file, reference_decoder_config()).state_dict(), expected)
    torch.save(expected, tmp_path / "decoder.bin")
    alone = Emu2VisualDecoder.from_native(tmp_path / "decoder.bin", reference_decoder_config())
    assert_same_weights(alone.state_dict(), expected)


def test_types(folder):
    stored = Emu2VisualDecoder.from_pretrained(folder)
    assert (stored.unet.dtype, stored.vae.dtype, stored.training) == (torch.float32, torch.float32, False)
    half = Emu2VisualDecoder.from_pretrained(folder, dtype=torch.float16)
    assert (half.unet.dtype, half.vae.dtype) == (torch.float16, torch.float32), "SDXL's VAE overflows in float16"
    brain = Emu2VisualDecoder.from_pretrained(folder, dtype=torch.bfloat16)
    assert (brain.unet.dtype, brain.vae.dtype) == (torch.bfloat16, torch.bfloat16)


def test_written_and_read_again(folder, tmp_path):
    decoder = Emu2VisualDecoder.from_pretrained(folder)
    decoder.save_pretrained(tmp_path / "written")
    again = Emu2VisualDecoder.from_pretrained(tmp_path / "written")
    assert_same_weights(again.state_dict(), decoder.state_dict())
    arguments = dict(embeds=torch.ones(1, 16, 32), guidance_scale=1, num_inference_steps=2)
    drawn = [one(**arguments, generator=torch.Generator().manual_seed(0))[0] for one in (decoder, again)]
    assert drawn[0].tobytes() == drawn[1].tobytes()
    assert not list(tmp_path.glob(".*"))


def test_written_into_a_folder_of_emu2_gen(folder):
    decoder = Emu2VisualDecoder.from_pretrained(folder)
    torch.nn.init.ones_(decoder.unet.conv_out.bias)
    decoder.save_pretrained(folder)
    assert_same_weights(Emu2VisualDecoder.from_pretrained(folder).state_dict(), decoder.state_dict())
    assert (folder / "multimodal_encoder" / "config.json").is_file() and not (folder / UNET).exists()


def test_older_names_of_the_attention_in_the_vae(folder):
    file = folder / "vae/diffusion_pytorch_model.bf16.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(file)
    for new, name in old.items():
        tensors = {key.replace(f".{new}.", f".{name}."): value for key, value in tensors.items()}
    assert any(".proj_attn." in key for key in tensors)
    save_file(tensors, file)
    assert_same_weights(Emu2VisualDecoder.from_pretrained(folder).state_dict(), decoder_tensors_of_reference())


def test_missing_unexpected_and_other_shapes(folder):
    tensors = load_file(folder / UNET)
    tensors["conv_extra.bias"] = tensors.pop("conv_in.bias")
    tensors["conv_out.bias"] = torch.zeros(9)
    save_file(tensors, folder / UNET)
    message = refusal(folder)
    assert "1 missing:\n    unet.conv_in.bias" in message
    assert "1 unexpected:\n    unet.conv_extra.bias" in message
    assert "1 of another shape:\n    unet.conv_out.bias [9] instead of [4]" in message


def test_a_native_file_of_other_sizes(tmp_path):
    with pytest.raises(UserError, match="the weights do not fit the model"):
        Emu2VisualDecoder.from_native(gen_file(tmp_path / "gen.safetensors"))


def test_nothing_there(folder, tmp_path):
    assert "no such file or folder" in refusal(tmp_path / "nowhere")
    assert "no visual decoder here (unet/config.json, vae/config.json" in refusal(folder / "multimodal_encoder")
    save_file({"visual.cls_token": torch.zeros(1)}, tmp_path / "base.safetensors")
    assert "no visual decoder in this file" in refusal(tmp_path / "base.safetensors")
    (folder / UNET).unlink()
    assert "unet: no weights here" in refusal(folder)


def test_damaged_configurations(folder):
    file = folder / "unet/config.json"
    file.write_text("{")
    assert f"{file}: not valid JSON" in refusal(folder)
    file.write_text("[]")
    assert f"{file}: not a configuration" in refusal(folder)
    file.write_text(json.dumps({"sample_size": 8}))
    assert "it has no cross_attention_dim" in refusal(folder)


def test_damaged_weights(folder):
    (folder / UNET).write_bytes((folder / UNET).read_bytes()[:5000])
    assert f"{folder / UNET}: damaged or cut short" in refusal(folder)


# -- the safety checker --------------------------------------------------------------------------------------------
def test_the_safety_checker_is_optional(tmp_path):
    decoder = with_checker()
    decoder.save_pretrained(tmp_path)
    assert_same_weights(Emu2VisualDecoder.from_pretrained(tmp_path).state_dict(), decoder.state_dict())
    assert Emu2VisualDecoder.from_pretrained(tmp_path, safety_checker=False).safety_checker is None
    shutil.rmtree(tmp_path / "safety_checker")
    assert Emu2VisualDecoder.from_pretrained(tmp_path).safety_checker is None
    assert "no safety checker here" in refusal(tmp_path, safety_checker=True)


def test_the_safety_checker_in_a_native_file_with_older_names(tmp_path):
    decoder = with_checker()
    tensors = {name: value.clone() for name, value in decoder.state_dict().items()}
    old = {name.replace("vision_model.", "vision_model.vision_model.", 1): value for name, value in tensors.items()}
    old["safety_checker.vision_model.vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    save_file(old, tmp_path / "gen.safetensors")
    read = Emu2VisualDecoder.from_native(tmp_path / "gen.safetensors", decoder.config)
    assert_same_weights(read.state_dict(), decoder.state_dict())
    expected = [buffer for name, buffer in decoder.named_buffers() if name.endswith("position_ids")]
    assert [buffer.tolist() for buffer in read.buffers() if not buffer.is_floating_point()] == [
        buffer.tolist() for buffer in expected
    ]


def test_what_the_checker_objects_to_is_black():
    decoder = with_checker()
    arguments = dict(embeds=torch.ones(1, 4, 64), guidance_scale=1, num_inference_steps=2)
    assert decoder(**arguments)[0].getextrema() != ((0, 0),) * 3
    decoder.safety_checker.concept_embeds_weights.data.fill_(-2.0)
    assert decoder(**arguments)[0].getextrema() == ((0, 0),) * 3
    wide = Image.new("RGB", (40, 20), "white")
    assert withhold_unsafe(decoder.safety_checker, [wide])[0].size == (40, 20)
