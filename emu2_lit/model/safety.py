"""The safety checker published with Emu2-Gen: CLIP, and concepts that pictures must stay away from."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import nn

from emu2_lit.model.images import pixel_values


def build_checker(config: dict[str, Any]) -> nn.Module:
    """diffusers' StableDiffusionSafetyChecker, of the sizes of a CLIP configuration."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig

    return StableDiffusionSafetyChecker(CLIPConfig(**config))


def stored_checker_name(name: str) -> str:
    """The name of a tensor of the checker in any release of transformers: older ones keep the tower one level down."""
    return name.replace("vision_model.vision_model.", "vision_model.")


@torch.no_grad()
def withhold_unsafe(
    checker: nn.Module, pictures: Sequence[Image.Image], device: torch.device | str = "cpu"
) -> list[Image.Image]:
    """The pictures, with black ones in the place of those that the checker objects to; it logs a warning then."""
    size = checker.config.vision_config.image_size
    squares = [pixel_values(ImageOps.fit(one, (size, size), Image.Resampling.BICUBIC), size) for one in pictures]
    pixels = torch.stack(squares).to(device, next(checker.parameters()).dtype)
    _, unsafe = checker(clip_input=pixels, images=torch.zeros(len(pictures), 1))
    return [Image.new("RGB", one.size) if bad else one for one, bad in zip(pictures, unsafe, strict=True)]
