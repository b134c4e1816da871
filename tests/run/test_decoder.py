"""Runs that train the visual decoder: a VAE first, then the UNet on top of it; what they leave draws."""

import json
import shutil

import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers", reason="the visual decoder's library is not installed (extra `generation`)")

from emu2_lit import recipe as recipes
from emu2_lit.cli import main
from emu2_lit.errors import UserError
from emu2_lit.model import Emu2DecoderConfig, Emu2VisualDecoder
from emu2_lit.model.images import load_image, target_pixels
from emu2_lit.run import fit
from emu2_lit.run.decoder import decoder_config, find_decoder, open_decoder
from tests.run.conftest import short

SHORT = ("data.global_batch_size=4", "data.micro_batch_size=4", "data.validation_limit=8", "data.workers=0")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, caption_model, drawings):
    """A decoder run of few steps, on top of a recipe that it ran first."""
    folder = tmp_path_factory.mktemp("decoder")
    made = f"data.folder={drawings.parent}"
    recipes.save(short("decoder/tiny_vae", folder, made, *SHORT, "trainer.max_steps=3"), folder / "vae.yaml")
    overrides = (f"model.decoder={folder / 'vae.yaml'}", f"model.weights={caption_model}", made, *SHORT)
    return fit(short("decoder/tiny", folder, *overrides, "trainer.max_steps=2", "trainer.val_check_interval=1"))


def test_a_recipe_as_decoder_runs_first_and_its_vae_is_kept(trained):
    base = json.loads((trained.directory / "decoder_base" / "summary.json").read_text())
    assert base["steps"] == 3 and trained.summary["steps"] == 2
    first = Emu2VisualDecoder.from_pretrained(trained.directory / "decoder_base" / "model")
    second = Emu2VisualDecoder.from_pretrained(trained.directory / "model")
    assert first.vae.config.scaling_factor == second.vae.config.scaling_factor
    assert first.vae.config.scaling_factor == pytest.approx(base["val/latent_scale"], rel=1e-5)
    one, other = first.state_dict(), second.state_dict()
    changed = {name.split(".")[0] for name, tensor in one.items() if not torch.equal(tensor, other[name])}
    assert changed == {"unet"}


def test_scaled_latents_have_a_mean_square_of_one(trained, drawings):
    vae = Emu2VisualDecoder.from_pretrained(trained.directory / "model").vae
    folder = drawings / "images"
    pixels = torch.stack([target_pixels(load_image(file)) for file in sorted(folder.iterdir())[:64]])
    with torch.no_grad():
        latents = vae.encode(pixels).latent_dist.sample() * vae.config.scaling_factor
    assert latents.square().mean().item() == pytest.approx(1.0, rel=0.15)


def test_what_a_run_leaves_draws(trained, caption_model, tmp_path, capsys, drawings):
    picture = next((drawings / "images").iterdir())
    for decoder in (trained.directory, trained.directory / "model"):
        out = tmp_path / "out.png"
        command = ["generate", caption_model, "--image", picture, "--decoder", decoder, "--steps", "2", "--out", out]
        assert main([str(word) for word in command]) == 0, capsys.readouterr().err
        assert Image.open(out).size == (56, 56)
    assert "emu2-lit generate MODEL --image PICTURE.png" in trained.describe()


def test_the_same_command_goes_on_and_ends(trained):
    recipe = recipes.load(str(trained.directory / "recipe.yaml"))
    assert fit(recipe).status == "already finished"


def test_decoders_by_name(trained, tmp_path):
    assert find_decoder(str(trained.directory)) == trained.directory / "model"
    assert decoder_config("tiny") == Emu2DecoderConfig.preset("tiny")
    assert decoder_config(str(trained.directory)).image_size == 56
    assert open_decoder("tiny").config.image_size == 56
    shutil.copy(trained.directory / "recipe.yaml", tmp_path / "recipe.yaml")
    with pytest.raises(UserError, match="has not made a visual decoder"):
        find_decoder(str(tmp_path))
    with pytest.raises(UserError, match="say what draws"):
        find_decoder(None)
    with pytest.raises(UserError, match="no-such: no such file"):
        find_decoder("no-such")


def test_sizes_that_do_not_fit(tmp_path, caption_model):
    overrides = (f"model.weights={caption_model}", "model.decoder=tiny", *SHORT)
    with pytest.raises(UserError, match="multiples of 4 pixels"):
        fit(short("decoder/tiny", tmp_path, *overrides, "data.pictures.size=50"))
