"""What the tests of the visual decoder share: the reference decoder in both published forms, and tiny random ones."""

import json
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from emu2_lit.model import (
    Emu2Config,
    Emu2DecoderConfig,
    Emu2ForConditionalGeneration,
    Emu2Generator,
    Emu2Processor,
    Emu2VisualDecoder,
)
from emu2_lit.settings import DrawingSettings
from tests.golden_data import FOLDER, golden_config
from tests.model.weight_cases import native_tensors, published_tensors, write_published

pytest.importorskip("diffusers", reason="the visual decoder's library is not installed (extra `generation`)")
REFERENCE = FOLDER / "base"
CONFIG_NAMES = {"unet": "config.json", "vae": "config.json", "scheduler": "scheduler_config.json"}
CHECKER = dict(
    projection_dim=8,
    vision_config=dict(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, patch_size=8, image_size=16
    ),
)
FEW_STEPS = DrawingSettings(steps=3)


def reference_decoder_config() -> Emu2DecoderConfig:
    return Emu2DecoderConfig(
        **{part: json.loads((REFERENCE / f"{part}_config.json").read_text()) for part in CONFIG_NAMES}
    )


def gen_folder(folder: Path) -> Path:
    """The reference model and decoder, laid out as the published Emu2-Gen."""
    for part, name in CONFIG_NAMES.items():
        (folder / part).mkdir(parents=True)
        shutil.copy(REFERENCE / f"{part}_config.json", folder / part / name)
    for part in ("unet", "vae"):
        shutil.copy(REFERENCE / f"{part}.safetensors", folder / part / "diffusion_pytorch_model.bf16.safetensors")
    write_published(
        folder / "multimodal_encoder", published_tensors("base"), golden_config("base"), suffix=".safetensors",
        stem="model.bf16", index="model.safetensors.index.bf16.json",
    )  # fmt: skip
    shutil.copytree(REFERENCE / "tokenizer_dir", folder / "tokenizer")
    (folder / "model_index.json").write_text("{}")
    return folder


def decoder_tensors_of_reference() -> dict[str, Tensor]:
    parts = {part: load_file(REFERENCE / f"{part}.safetensors") for part in ("unet", "vae")}
    return {f"{part}.{name}": value for part, tensors in parts.items() for name, value in tensors.items()}


def gen_file(file: Path) -> Path:
    """The same as Emu2-Gen's native file."""
    model = {f"multimodal_encoder.{name}": value for name, value in native_tensors("base").items()}
    save_file(model | decoder_tensors_of_reference(), file)
    return file


@cache
def tiny_generator() -> Emu2Generator:
    """Random weights, tiny presets; do not change it."""
    return new_tiny_generator()


def new_tiny_generator() -> Emu2Generator:
    torch.manual_seed(0)
    config = Emu2Config.preset("tiny")
    model = Emu2ForConditionalGeneration(config).eval()
    decoder = Emu2VisualDecoder(Emu2DecoderConfig.preset("tiny")).eval()
    return Emu2Generator(model, Emu2Processor.for_config(config), decoder)


def alike(one: list[Image.Image], other: list[Image.Image]) -> bool:
    """Whether they are the same but for rounding: sums of another batch size differ in their last digits."""
    arrays = [np.stack([np.asarray(picture, dtype=int) for picture in pictures]) for pictures in (one, other)]
    return np.abs(arrays[0] - arrays[1]).max() <= 1


def same(one: list[Image.Image], other: list[Image.Image]) -> bool:
    """Whether the pictures are the same, byte for byte."""
    return [picture.tobytes() for picture in one] == [picture.tobytes() for picture in other]
