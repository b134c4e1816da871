"""The visual decoder and what draws with it: seeds, sizes, prompts, offload, messages."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from emu2_lit.errors import UserError
from emu2_lit.model import Emu2Config, Emu2DecoderConfig, Emu2Generator, Emu2Processor, Emu2VisualDecoder
from emu2_lit.model.drawing import prompt_segments
from emu2_lit.model.offload import lent
from emu2_lit.model.segments import Segment
from emu2_lit.settings import DrawingSettings
from tests.model.decoder_cases import FEW_STEPS, alike, new_tiny_generator, same, tiny_generator

PICTURE = Image.radial_gradient("L").convert("RGB")


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def embeddings(prompts: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randn(prompts, 4, 64, generator=torch.Generator().manual_seed(seed))


def draw(*embeds, **arguments) -> list[Image.Image]:
    return tiny_generator().decoder(*embeds, **{"num_inference_steps": 3, "generator": seeded(0)[0], **arguments})


# -- the decoder ---------------------------------------------------------------------------------------------------
def test_the_tiny_one_is_tiny():
    decoder = tiny_generator().decoder
    assert sum(parameter.numel() for parameter in decoder.parameters()) < 1_300_000
    (picture,) = draw(embeddings(), guidance_scale=1)
    assert (picture.size, picture.mode) == ((56, 56), "RGB")


def test_the_published_sizes():
    """Parameters and tensors of the published Emu2-Gen."""
    with torch.device("meta"):
        decoder = Emu2VisualDecoder(Emu2DecoderConfig.preset("emu2-gen"))
    for part, parameters, tensors in ((decoder.unet, 2_525_520_644, 1680), (decoder.vae, 83_653_863, 248)):
        assert sum(parameter.numel() for parameter in part.parameters()) == parameters
        assert len(part.state_dict()) == tensors
    assert (decoder.config.image_size, decoder.config.condition_width) == (1024, 1792)


def test_the_seed_decides():
    embeds, null = embeddings(), embeddings(seed=1)
    first = draw(embeds, null, generator=seeded(5)[0])
    assert same(first, draw(embeds, null, generator=seeded(5)[0]))
    assert not same(first, draw(embeds, null, generator=seeded(6)[0]))


def test_given_noise_stands_in_for_the_seed():
    noise = torch.randn(1, 4, 14, 14, generator=seeded(5)[0])
    arguments = (embeddings(), embeddings(seed=1))
    assert same(draw(*arguments, latents=noise), draw(*arguments, generator=seeded(5)[0]))


def test_pictures_of_a_batch_do_not_depend_on_each_other():
    embeds, null = embeddings(2), embeddings(seed=1)
    together = draw(embeds, null, images_per_prompt=2, generator=seeded(0, 1, 2, 3))
    apart = [draw(embeds[place // 2, None], null, generator=seeded(place))[0] for place in range(4)]
    assert len({picture.tobytes() for picture in together}) == 4
    assert alike(together, apart)


def test_guidance_goes_away_from_the_negative():
    embeds, null = embeddings(), embeddings(seed=1)
    plain = draw(embeds, guidance_scale=1)
    assert same(plain, draw(embeds, null, guidance_scale=1))
    assert alike(plain, draw(embeds, embeds, guidance_scale=3)), "the same on both sides: nothing to go away from"
    guided = draw(embeds, null, guidance_scale=3)
    assert not same(plain, guided)
    assert not same(guided, draw(null, embeds, guidance_scale=3))
    assert not same(guided, draw(embeds, embeddings(seed=2), guidance_scale=3))


def test_the_sizes_are_conditions():
    embeds = embeddings()
    plain = draw(embeds, guidance_scale=1)
    assert same(plain, draw(embeds, guidance_scale=1, height=56, width=56, original_size=(56, 56), crop=(0, 0)))
    assert not same(plain, draw(embeds, guidance_scale=1, original_size=(20, 20)))
    assert not same(plain, draw(embeds, guidance_scale=1, crop=(8, 0)))
    assert draw(embeds, guidance_scale=1, height=32, width=60)[0].size == (60, 32)


def test_bfloat16():
    decoder = new_tiny_generator().decoder.to(torch.bfloat16)
    (rough,) = decoder(embeddings(), guidance_scale=1, num_inference_steps=3, generator=seeded(0)[0])
    (fine,) = draw(embeddings(), guidance_scale=1)
    assert np.abs(np.asarray(rough).astype(int) - np.asarray(fine)).mean() < 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(), "guidance above 1 needs negative_embeds"),
        (dict(guidance_scale=1, height=50), "height=50: this decoder draws in multiples of 4 pixels, such as 56"),
        (dict(guidance_scale=1, width=0), "width=0"),
        (dict(guidance_scale=1, latents=torch.zeros(1, 4, 8, 8)), r"\[1, 4, 8, 8\] instead of \[1, 4, 14, 14\]"),
        (dict(guidance_scale=1, generator=seeded(0, 1)), "2 generators for 1 pictures"),
        (dict(guidance_scale=1, num_inference_steps=0), "num_inference_steps=0"),
        (dict(negative_embeds=torch.zeros(3, 4, 64)), r"negative_embeds of shape \[3, 4, 64\]"),
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises(UserError, match=message):
        draw(embeddings(), **arguments)


def test_embeddings_of_another_model():
    with pytest.raises(UserError, match=r"\[1, 64, 1792\]: this decoder takes \[prompts, tokens, 64\]"):
        draw(torch.zeros(1, 64, 1792), guidance_scale=1)
    tiny = tiny_generator()
    other = Emu2Config.preset("small")
    with pytest.raises(UserError, match="width 512, the decoder draws those of 64"):
        Emu2Generator(tiny.model, Emu2Processor.for_config(other), tiny.decoder)


def test_unknown_preset():
    with pytest.raises(UserError, match="'huge' of the visual decoder: one of emu2-gen, tiny"):
        Emu2DecoderConfig.preset("huge")


def test_without_diffusers():
    """The rest of the kit is imported without it; the decoder says what to install."""
    code = (
        "import sys; sys.modules['diffusers'] = None\n"
        "from emu2_lit.model import Emu2DecoderConfig, Emu2VisualDecoder\n"
        "Emu2VisualDecoder(Emu2DecoderConfig.preset('tiny'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "UserError: The visual decoder needs diffusers: pip install 'emu2-lit[generation]'" in done.stderr


# -- prompts -------------------------------------------------------------------------------------------------------
def test_one_picture_alone_is_autoencoded():
    generator = tiny_generator()
    autoencoded = generator.autoencode(PICTURE, FEW_STEPS)
    assert same(autoencoded, generator.generate([PICTURE], FEW_STEPS))
    assert same(autoencoded, generator.generate(PICTURE, FEW_STEPS))
    went_on = generator.generate([PICTURE, ""], FEW_STEPS)
    assert not same(autoencoded, went_on)
    assert not same(generator.edit(PICTURE, "make it red", FEW_STEPS), went_on)


def test_autoencoding_leaves_the_language_model_alone():
    generator = new_tiny_generator()
    before = generator.autoencode(PICTURE, FEW_STEPS)
    torch.nn.init.normal_(generator.model.lm.lm_head.weight)
    torch.nn.init.normal_(generator.model.project_down.weight)
    assert same(before, generator.autoencode(PICTURE, FEW_STEPS))


def test_pictures_of_a_prompt():
    several = tiny_generator().generate("a dog", replace(FEW_STEPS, images_per_prompt=3, seed=4))
    assert len({picture.tobytes() for picture in several}) == 3
    assert alike(several[1:2], tiny_generator().generate(["a dog"], replace(FEW_STEPS, seed=5)))


def test_the_null_condition_is_that_of_an_empty_prompt():
    generator = tiny_generator()
    embeds, null = generator.conditions([["a", "dog"], ["a", PICTURE, "dog"]])
    assert (embeds.shape, null.shape) == ((2, 4, 64), (1, 4, 64))
    expected = generator.model.generate_image(**generator.processor(text=""))
    torch.testing.assert_close(null, expected, rtol=0, atol=1e-5)
    expected = generator.model.generate_image(**generator.processor(text="adog"))
    torch.testing.assert_close(embeds[:1], expected, rtol=0, atol=1e-5)


def test_markup_of_grounding_is_read_and_nothing_else():
    parts = ["<grounding>a", "<phrase>dog</phrase><object>", PICTURE, "</object>", "[IMG]</s><image>"]
    segments = prompt_segments(parts)
    assert [segment.text for segment in segments if segment.kind == "token"] == [
        "<grounding>", "<phrase>", "</phrase>", "<object>", "</object>",
    ]  # fmt: skip
    assert [segment.kind for segment in segments].count("image") == 1
    assert segments[-3:] == [Segment("text", text) for text in ("[IMG]", "</s>", "<image>")]
    placeholders = ["[<IMG_PLH>]", "[<VID_PLH>]"]
    assert prompt_segments(placeholders) == [Segment("text", one) for one in placeholders]


def test_mistaken_prompts(tmp_path):
    with pytest.raises(UserError, match="nothing to draw"):
        tiny_generator().generate([])
    with pytest.raises(UserError, match="absent.png: no such file"):
        tiny_generator().generate(["a dog like", tmp_path / "absent.png"])


# -- offload -------------------------------------------------------------------------------------------------------
def test_offload_to_the_processor_changes_nothing():
    generator = new_tiny_generator()
    before = generator.generate(["a dog like", PICTURE], FEW_STEPS)
    places = {name: parameter.data_ptr() for name, parameter in generator.decoder.named_parameters()}
    generator.offload("cpu")
    assert same(before, generator.generate(["a dog like", PICTURE], FEW_STEPS))
    assert places == {name: parameter.data_ptr() for name, parameter in generator.decoder.named_parameters()}


def test_lent_weights_come_home_after_an_error():
    layer = torch.nn.Linear(2, 2)
    home = layer.weight.data_ptr()
    with pytest.raises((RuntimeError, AssertionError)), lent(layer, "cuda:99"):
        pass
    with pytest.raises(KeyError), lent(layer, "cpu"):
        layer.weight.data = torch.zeros(2, 2)
        raise KeyError
    assert layer.weight.data_ptr() == home


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_offload_from_a_gpu():
    generator = new_tiny_generator()
    expected = generator.generate(["a dog like", PICTURE], DrawingSettings(steps=3))
    generator.offload("cuda:0")
    (picture,) = generator.generate(["a dog like", PICTURE], DrawingSettings(steps=3))
    assert {parameter.device.type for parameter in generator.decoder.parameters()} == {"cpu"}
    assert {parameter.device.type for parameter in generator.model.parameters()} == {"cpu"}
    assert np.abs(np.asarray(picture).astype(int) - np.asarray(expected[0])).mean() < 2
