"""Configuration of the visual decoder: the published one, and a tiny one for tests and laptops."""

import copy
from dataclasses import dataclass
from typing import Any

from emu2_lit.errors import UserError


@dataclass
class Emu2DecoderConfig:
    """UNet, VAE and noise schedule, each as diffusers' own configuration.

    Attributes:
        unet: of UNet2DConditionModel, with SDXL's added conditions (`addition_embed_type` "text_time").
        vae: of AutoencoderKL; scheduler: of EulerDiscreteScheduler.
        safety_checker: of transformers' CLIP; None where there is none.
    """

    unet: dict[str, Any]
    vae: dict[str, Any]
    scheduler: dict[str, Any]
    safety_checker: dict[str, Any] | None = None

    @property
    def condition_width(self) -> int:
        """Width of the visual embeddings that it draws."""
        return self.unet["cross_attention_dim"]

    def with_condition_width(self, width: int) -> "Emu2DecoderConfig":
        """A copy that draws embeddings of another width."""
        other = copy.deepcopy(self)
        sizes = _SIZES * self.unet["addition_time_embed_dim"]
        other.unet.update(cross_attention_dim=width, projection_class_embeddings_input_dim=width + sizes)
        return other

    @property
    def vae_scale(self) -> int:
        """Pixels along a side for one latent."""
        return 2 ** (len(self.vae["block_out_channels"]) - 1)

    @property
    def image_size(self) -> int:
        """Side of the pictures that the UNet was made for, in pixels."""
        return self.unet["sample_size"] * self.vae_scale

    @classmethod
    def preset(cls, name: str) -> "Emu2DecoderConfig":
        """A named size: `emu2-gen` (as published, 2.6B parameters, 1024 px), `tiny` (56 px, for the preset `tiny`)."""
        if name not in DECODER_PRESETS:
            raise UserError(f"unknown preset {name!r} of the visual decoder: one of {', '.join(DECODER_PRESETS)}")
        return cls(**copy.deepcopy(DECODER_PRESETS[name]))


_TIME_WIDTH, _SIZES = 256, 6  # each of the six sizes is embedded in so many dimensions

_SCHEDULER = dict(
    num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
    prediction_type="epsilon", interpolation_type="linear", timestep_spacing="leading", steps_offset=1,
    use_karras_sigmas=False,
)  # fmt: skip

SAFETY_CHECKER = dict(  # CLIP ViT-L/14, of which the tower of pictures is used
    projection_dim=768,
    vision_config=dict(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14,
        image_size=224,
    ),
)  # fmt: skip

DECODER_PRESETS: dict[str, dict[str, Any]] = {
    "emu2-gen": dict(
        unet=dict(
            sample_size=128, in_channels=4, out_channels=4, block_out_channels=[320, 640, 1280], layers_per_block=2,
            down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            transformer_layers_per_block=[1, 2, 10], attention_head_dim=[5, 10, 20], use_linear_projection=True,
            cross_attention_dim=1792, addition_embed_type="text_time", addition_time_embed_dim=_TIME_WIDTH,
            projection_class_embeddings_input_dim=1792 + _SIZES * _TIME_WIDTH,
        ),
        vae=dict(
            sample_size=1024, latent_channels=4, block_out_channels=[128, 256, 512, 512], layers_per_block=2,
            down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
            scaling_factor=0.13025, force_upcast=True,
        ),
        scheduler=_SCHEDULER,
    ),
    "tiny": dict(
        unet=dict(
            sample_size=14, in_channels=4, out_channels=4, block_out_channels=[32, 64], layers_per_block=1,
            down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
            up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"], norm_num_groups=8,
            transformer_layers_per_block=[1, 1], attention_head_dim=[2, 4], use_linear_projection=True,
            cross_attention_dim=64, addition_embed_type="text_time", addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=64 + _SIZES * 8,
        ),
        vae=dict(
            sample_size=56, latent_channels=4, block_out_channels=[8, 16, 32], layers_per_block=1, norm_num_groups=4,
            down_block_types=["DownEncoderBlock2D"] * 3, up_block_types=["UpDecoderBlock2D"] * 3,
        ),
        scheduler=_SCHEDULER,
    ),
}  # fmt: skip
