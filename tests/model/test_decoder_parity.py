"""The pictures of the published decoding code are reproduced: embeddings within 1e-4, pixels within 2 of 255."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from emu2_lit.model import Emu2Generator
from emu2_lit.settings import DrawingSettings
from tests.golden_data import golden, golden_config
from tests.model.decoder_cases import REFERENCE, gen_file, gen_folder, reference_decoder_config
from tests.model.weight_cases import assert_same_weights

EXPECTED = json.loads((REFERENCE / "expected_generation.json").read_text())
TENSORS = load_file(REFERENCE / "expected_generation.safetensors")


@pytest.fixture(scope="module")
def generator(tmp_path_factory) -> Emu2Generator:
    return Emu2Generator.from_pretrained(gen_folder(tmp_path_factory.mktemp("gen")))


def prompt(name: str) -> list:
    pictures = {f"<image_{place}>": picture for place, picture in enumerate(golden("base").images)}
    return [pictures.get(part, part) for part in EXPECTED["prompts"][name]]


@pytest.mark.parametrize("name", EXPECTED["prompts"])
def test_condition_embeddings(generator, name):
    embeds = generator.picture_conditions if name == "autoencode" else generator.conditions
    got = torch.cat(embeds(prompt(name) if name == "autoencode" else [prompt(name)]))
    assert_close(got, TENSORS[f"{name}_cfg3_prompt_embeds"], rtol=0, atol=1e-4)
    assert_close(got[:1], TENSORS[f"{name}_cfg1_prompt_embeds"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("guidance", [1, 3])
@pytest.mark.parametrize("name", EXPECTED["prompts"])
def test_pictures(generator, name, guidance):
    drawing = DrawingSettings(guidance_scale=guidance, steps=EXPECTED["steps"])
    (picture,) = generator.generate(prompt(name), drawing, latents=TENSORS["initial_noise"])
    expected = TENSORS[f"{name}_cfg{guidance}"].numpy().astype(int)
    assert picture.size == (EXPECTED["size"], EXPECTED["size"])
    assert np.abs(np.asarray(picture).astype(int) - expected).max() <= 2


def test_the_native_file_holds_the_same(generator, tmp_path):
    native = Emu2Generator.from_native(
        gen_file(tmp_path / "gen.safetensors"), REFERENCE / "tokenizer_dir", config=golden_config("base"),
        decoder_config=reference_decoder_config(),
    )  # fmt: skip
    assert_same_weights(native.decoder.state_dict(), generator.decoder.state_dict())
    assert_same_weights(native.model.state_dict(), generator.model.state_dict())
    arguments = (prompt("interleaved"), DrawingSettings(steps=2))
    assert native.generate(*arguments)[0].tobytes() == generator.generate(*arguments)[0].tobytes()
