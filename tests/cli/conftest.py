from pathlib import Path

import pytest
import torch

from emu2_lit.cli import main
from emu2_lit.model import Emu2Config, Emu2ForConditionalGeneration, Emu2Processor
from emu2_lit.model.lora import apply_lora
from emu2_lit.settings import LoraSettings


@pytest.fixture
def emu2_lit(capsys, tmp_path, monkeypatch):
    """Runs the command in an empty current folder: (exit status, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        status = main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """A folder with a tiny chat model of random weights, float32."""
    torch.manual_seed(0)
    config = Emu2Config.preset("tiny").with_role_tokens()
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    Emu2ForConditionalGeneration(config).save_pretrained(folder, processor=Emu2Processor.for_config(config))
    return folder


@pytest.fixture(scope="session")
def adapter(weights) -> Path:
    """An adapter for `weights` that changes what it says."""
    torch.manual_seed(1)
    model = apply_lora(Emu2ForConditionalGeneration.from_pretrained(weights), LoraSettings(rank=4))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    model.peft_config["default"].base_model_name_or_path = str(weights)
    folder = weights.parent / "adapter"
    model.save_pretrained(str(folder))
    Emu2Processor.from_pretrained(weights).save_pretrained(folder)
    return folder


@pytest.fixture
def picture(tmp_path) -> Path:
    """A small PNG file."""
    from PIL import Image

    path = tmp_path / "picture.png"
    Image.radial_gradient("L").convert("RGB").resize((40, 30)).save(path)
    return path
