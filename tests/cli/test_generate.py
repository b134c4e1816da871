"""`generate`: a prompt to files of pictures."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from emu2_lit import recipe as recipes
from emu2_lit.cli.generate import prompt_of
from emu2_lit.model import Emu2DecoderConfig, Emu2Generator, Emu2VisualDecoder, Subject
from emu2_lit.model.box_picture import box_picture
from emu2_lit.run import load_run
from emu2_lit.settings import DrawingSettings
from tests.model.decoder_cases import gen_folder

FAST = ["--steps", "2"]


@pytest.fixture(scope="session")
def decoder(tmp_path_factory):
    """A folder with a tiny decoder of random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("decoder") / "tiny"
    Emu2VisualDecoder(Emu2DecoderConfig.preset("tiny")).save_pretrained(folder)
    return folder


def test_texts_and_pictures(emu2_lit, adapter, decoder, picture, tmp_path):
    arguments = [
        "generate",
        adapter,
        "--decoder",
        decoder,
        "--prompt",
        "a dog like",
        "--image",
        picture,
        "--prompt",
        "on grass",
        *FAST,
    ]
    status, out, _ = emu2_lit(*arguments)
    assert (status, out) == (0, "out.png\n")
    assert Image.open("out.png").size == (56, 56)
    assert emu2_lit(*arguments, "--out", "again.png", "--offload", "--device", "cpu")[0] == 0
    assert emu2_lit(*arguments, "--out", "other.jpg", "--seed", "1", "--height", "32", "--guidance", "1")[0] == 0
    assert Image.open("again.png").tobytes() == Image.open("out.png").tobytes()
    assert (Image.open("other.jpg").size, Image.open("other.jpg").format) == ((56, 32), "JPEG")


def test_several_pictures(emu2_lit, adapter, decoder):
    status, out, _ = emu2_lit("generate", adapter, "--decoder", decoder, "--prompt", "a dog", *FAST, "-n", "2")
    assert (status, out.split()) == (0, ["out_0.png", "out_1.png"])
    assert Image.open("out_0.png").tobytes() != Image.open("out_1.png").tobytes()


def test_a_folder_of_emu2_gen_has_both(emu2_lit, tmp_path, picture):
    folder = gen_folder(tmp_path / "gen")
    assert emu2_lit("generate", folder, "--image", picture, *FAST)[0] == 0
    assert (
        emu2_lit("generate", folder, "--image", picture, "--prompt", "make it red", *FAST, "--out", "edited.png")[0]
        == 0
    )
    assert Image.open("out.png").size == Image.open("edited.png").size == (128, 128)
    assert Image.open("out.png").tobytes() != Image.open("edited.png").tobytes()


def test_a_run_draws_as_its_recipe_says(emu2_lit, adapter, decoder, weights, tmp_path):
    run = tmp_path / "run"
    drawn = [f"model.decoder={decoder}", "drawing.steps=2", "drawing.guidance_scale=1.0"]
    recipe = recipes.load("quickstart/generation", [f"model.weights={weights}", *drawn])
    recipes.save(recipe, run / "recipe.yaml")
    shutil.copytree(adapter, run / "adapter")
    asked = ["--prompt", "a dog"]
    assert emu2_lit("generate", run, *asked)[0] == 0
    said = [*asked, "--decoder", decoder, "--steps", "2", "--guidance", "1", "--out", "said.png"]
    assert emu2_lit("generate", run / "adapter", *said)[0] == 0
    assert Image.open("out.png").tobytes() == Image.open("said.png").tobytes()


def test_a_thing_in_a_box(emu2_lit, adapter, decoder, picture):
    """The published demo's prompt: grounding mark, text, phrase, box picture, object picture."""
    thing = ["--image", picture, "--box", "40,80,300,420", "--phrase", "the dog"]
    command = ["generate", adapter, "--prompt", "the dog at sea", *thing, "--decoder", decoder, *FAST, "--seed", "0"]
    status, out, _ = emu2_lit(*command, "-n", "4", "--out", "dog.png")
    assert (status, out.split()) == (0, [f"dog_{place}.png" for place in range(4)])
    model, processor = load_run(adapter)
    generator = Emu2Generator(model, processor, Emu2VisualDecoder.from_pretrained(decoder))
    box = box_picture([40 / 448, 80 / 448, 300 / 448, 420 / 448])
    prompt = ["<grounding>", "the dog at sea", "<phrase>the dog</phrase><object>", box, "</object>", Path(picture)]
    (expected,) = generator.generate(prompt, DrawingSettings(steps=2))
    drawn = np.array(Image.open("dog_0.png"), int)
    assert np.abs(drawn - np.array(expected, int)).max() <= 1  # four pictures at once round otherwise than one


def test_options_to_prompts():
    pieces = [("image", "a.png"), ("prompt", "x"), ("phrase", "cat"), ("box", "0,0,224,448"), ("box", "0,0,0.5,1")]
    left = (0, 0, 0.5, 1)
    assert prompt_of(pieces) == [Path("a.png"), "x", Subject("cat", left), Subject(None, left)]
    two = [("phrase", "cat"), ("image", "c.png"), ("phrase", "dog"), ("image", "d.png"), ("prompt", "x")]
    assert prompt_of(two) == ["x", Subject("cat", None, Path("c.png")), Subject("dog", None, Path("d.png"))]
    assert prompt_of([("prompt", "x"), ("image", "a.png")]) == ["x", Path("a.png")]


def test_mistakes(emu2_lit, adapter, decoder, tmp_path):
    def refusal(*arguments) -> str:
        status, _, err = emu2_lit("generate", adapter, *arguments)
        assert status == 2 and "Traceback" not in err
        return err

    dog = ("--prompt", "a dog")
    assert "nothing to draw: give a --prompt" in refusal()
    assert "give one with --decoder" in refusal(*dog)
    assert "no visual decoder here" in refusal(*dog, "--decoder", tmp_path)
    assert "nowhere: no such file or folder" in refusal(*dog, "--decoder", "nowhere")
    assert "absent.png: no such file" in refusal("--image", "absent.png", "--decoder", decoder)
    assert "out.txt: give a picture's name" in refusal(*dog, "--decoder", decoder, "--out", "out.txt")
    assert "height=50: this decoder draws in multiples of 4" in refusal(*dog, "--decoder", decoder, "--height", "50")
    for box in ("1,2,3", "a,b,c,d", "40,80,300,1024", "nan,0,1,1"):
        assert f"--box {box}: give X1,Y1,X2,Y2 in pixels of a 448x448 canvas" in refusal("--box", box)
    assert "--box 5,5,5,90: it has no area" in refusal("--box", "5,5,5,90")
