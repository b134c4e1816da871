"""What the tests of the processor share: the reference tokenizers and what was recorded with them."""

import json
import os
from functools import cache
from pathlib import Path

import pytest
from PIL import Image

from emu2_lit.model import Emu2Config, Emu2Processor
from tests.golden_data import FOLDER, golden_config

both = pytest.mark.parametrize("name", ["base", "chat"])


def recorded(*parts: str) -> dict:
    return json.loads(FOLDER.joinpath(*parts).read_text())


@cache
def golden_processor(name: str) -> Emu2Processor:
    """The processor of a reference model, without the model; do not change it."""
    return Emu2Processor.from_sentencepiece(FOLDER / name / "tokenizer_dir", config=golden_config(name))


def golden_images(name: str) -> list[Image.Image]:
    return [Image.open(FOLDER / name / f"image_{i}.png") for i in range(4)]


@cache
def tiny_processor(chat: bool = True) -> Emu2Processor:
    """The processor of the tiny preset; do not change it."""
    processor = Emu2Processor.for_config(Emu2Config.preset("tiny"))
    return processor.with_role_tokens() if chat else processor


def llama_tokenizer_file() -> Path:
    """LLaMA's own SentencePiece model, which the project may not carry: the test is skipped where there is none."""
    default = Path(__file__).parents[3] / "shared" / "golden" / "real_tokenizer" / "tokenizer.model"
    file = Path(os.environ.get("EMU2_TOKENIZER", default))
    if not file.is_file():
        pytest.skip("LLaMA's tokenizer.model is not part of the project: set EMU2_TOKENIZER to its path")
    return file
