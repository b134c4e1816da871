"""The reference models, for the tests that compare with them."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from emu2_lit.model import Emu2Config, Emu2ForConditionalGeneration, Emu2Processor

FOLDER = Path(__file__).parent / "golden"


@dataclass
class Golden:
    """One reference model with its inputs and expected outputs."""

    config: Emu2Config
    model: Emu2ForConditionalGeneration
    processor: Emu2Processor
    images: list[Image.Image]
    tensors: dict[str, Tensor]
    expected: dict[str, Any]
    objective: dict[str, Any]


def golden_config(name: str) -> Emu2Config:
    """The configuration as a user would write it from the reference's own."""
    expected = json.loads((FOLDER / name / "expected.json").read_text())
    vision = expected["vision"]
    return Emu2Config(
        vision_config=vision,
        text_config=dict(expected["llama"], vocab_size=expected["vocab_size"]),
        n_query=vision["n_query"],
        v_query=vision["v_query"],
    )


@cache
def golden(name: str) -> Golden:
    """`base` or `chat`; do not change what it returns."""
    folder = FOLDER / name
    expected = json.loads((folder / "expected.json").read_text())
    config = golden_config(name)
    return Golden(
        config=config,
        model=Emu2ForConditionalGeneration.from_native(folder / "native_state_dict.safetensors", config=config).eval(),
        processor=Emu2Processor.from_sentencepiece(
            folder / "tokenizer_dir" / "tokenizer.model", config=config, chat=expected["instruct"]
        ),
        images=[Image.open(folder / f"image_{i}.png") for i in range(4)],
        tensors=load_file(folder / "expected.safetensors"),
        expected=expected,
        objective=json.loads((folder / "expected_objective.json").read_text()),
    )
