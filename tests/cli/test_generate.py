"""`generate`: a prompt to files of pictures."""

import pytest
import torch
from PIL import Image

from emu2_lit.model import Emu2DecoderConfig, Emu2VisualDecoder
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
    arguments = ["generate", adapter, "--decoder", decoder, "a dog like", picture, "on grass", *FAST]
    status, out, _ = emu2_lit(*arguments)
    assert (status, out) == (0, "out.png\n")
    assert Image.open("out.png").size == (56, 56)
    assert emu2_lit(*arguments, "--out", "again.png", "--offload", "--device", "cpu")[0] == 0
    assert emu2_lit(*arguments, "--out", "other.jpg", "--seed", "1", "--height", "32", "--guidance", "1")[0] == 0
    assert Image.open("again.png").tobytes() == Image.open("out.png").tobytes()
    assert (Image.open("other.jpg").size, Image.open("other.jpg").format) == ((56, 32), "JPEG")


def test_several_pictures(emu2_lit, adapter, decoder):
    status, out, _ = emu2_lit("generate", adapter, "--decoder", decoder, "a dog", *FAST, "--images", "2")
    assert (status, out.split()) == (0, ["out_0.png", "out_1.png"])
    assert Image.open("out_0.png").tobytes() != Image.open("out_1.png").tobytes()


def test_a_folder_of_emu2_gen_has_both(emu2_lit, tmp_path, picture):
    folder = gen_folder(tmp_path / "gen")
    assert emu2_lit("generate", folder, picture, *FAST)[0] == 0
    assert emu2_lit("generate", folder, picture, "make it red", *FAST, "--out", "edited.png")[0] == 0
    assert Image.open("out.png").size == Image.open("edited.png").size == (128, 128)
    assert Image.open("out.png").tobytes() != Image.open("edited.png").tobytes()


def test_mistakes(emu2_lit, adapter, decoder, tmp_path):
    def refusal(*arguments) -> str:
        status, _, err = emu2_lit("generate", adapter, *arguments)
        assert status == 2 and "Traceback" not in err
        return err

    assert "give one with --decoder" in refusal("a dog")
    assert "no visual decoder here" in refusal("a dog", "--decoder", tmp_path)
    assert "nowhere: no such file or folder" in refusal("a dog", "--decoder", "nowhere")
    assert "absent.png: no such file" in refusal("absent.png", "--decoder", decoder)
    assert "out.txt: give a picture's name" in refusal("a dog", "--decoder", decoder, "--out", "out.txt")
    assert "height=50: this decoder draws in multiples of 4" in refusal("x", "--decoder", decoder, "--height", "50")
