"""The visual decoder: an SDXL-like diffusion model that draws what visual embeddings say (paper section 2.2.3)."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import torch
from PIL import Image
from torch import Tensor, nn

from emu2_lit.errors import UserError
from emu2_lit.model import decoder_files
from emu2_lit.model.decoder_config import Emu2DecoderConfig
from emu2_lit.model.offload import lent
from emu2_lit.model.safety import build_checker, withhold_unsafe


def diffusers() -> ModuleType:
    """Raises UserError where it is not installed; the rest of the kit works without."""
    try:
        return importlib.import_module("diffusers")
    except ImportError as error:
        raise UserError("The visual decoder needs diffusers: pip install 'emu2-lit[generation]'") from error


class Emu2VisualDecoder(nn.Module):
    """UNet, VAE and Euler scheduler of diffusers under their published names, and a safety checker if wanted.

    Conditions are the visual embeddings themselves (cross-attention), their mean in the place of SDXL's pooled text,
    and SDXL's six sizes.

    Raises:
        UserError: diffusers is not installed.
    """

    def __init__(self, config: Emu2DecoderConfig):
        super().__init__()
        library = diffusers()
        self.config = config
        self.unet = library.UNet2DConditionModel.from_config(config.unet)
        self.vae = library.AutoencoderKL.from_config(config.vae)
        with torch.device("cpu"):  # its tables are no weights: they are computed even where those are not there yet
            self.scheduler = library.EulerDiscreteScheduler.from_config(config.scheduler)
        self.safety_checker = build_checker(config.safety_checker) if config.safety_checker else None
        self._visited: torch.device | None = None

    # -- where it computes -----------------------------------------------------------------------------------
    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._visited or next(self.unet.parameters()).device

    def offload(self, device: torch.device | str) -> None:
        """Keep the weights in main memory; each part visits `device` while it computes."""
        self.to("cpu")
        self._visited = torch.device(device)

    # -- drawing ---------------------------------------------------------------------------------------------
    @torch.no_grad()
    def forward(
        self,
        embeds: Tensor,
        negative_embeds: Tensor | None = None,
        guidance_scale: float = 3.0,
        num_inference_steps: int = 50,
        height: int | None = None,
        width: int | None = None,
        latents: Tensor | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        images_per_prompt: int = 1,
        original_size: tuple[int, int] | None = None,
        crop: tuple[int, int] = (0, 0),
    ) -> list[Image.Image]:
        """Draw pictures.

        Args:
            embeds: (prompts, n, condition width), of `encode_image` or `generate_image`.
            negative_embeds: the same of nothing, (1 or prompts, n, condition width); needed for a guidance above 1.
            guidance_scale: how far to go from the negative to the positive prediction; 1 is no guidance.
            height, width: of the pictures, in pixels; default those that the decoder was made for.
            latents: the initial noise, (pictures, channels, height / scale, width / scale), of variance 1.
            generator: of that noise, where it is not given; one for all pictures or one for each.
            images_per_prompt: pictures of the same prompt stand together.
            original_size, crop: (height, width) before cropping and (top, left) of the cut, as SDXL takes them;
                default the decoder's own size, uncut.
        Raises:
            UserError: sizes or shapes do not fit the decoder, or guidance without negative embeddings.
        """
        if num_inference_steps < 1:
            raise UserError(f"num_inference_steps={num_inference_steps}: at least one is needed")
        height, width = self._checked_size(height, width)
        conditions = self._conditions(embeds, negative_embeds if guidance_scale > 1 else None, images_per_prompt)
        if guidance_scale > 1 and len(conditions) == 1:
            raise UserError(
                "guidance above 1 needs negative_embeds, the embeddings of an empty prompt or an empty picture; "
                "or set guidance_scale=1"
            )
        original = original_size or (self.config.image_size, self.config.image_size)
        sizes = torch.tensor([[*original, *crop, height, width]], dtype=torch.float32, device=self.device)
        noise = self._noise(conditions[0], height, width, latents, generator)
        with lent(self.unet, self.device):
            drawn = self._denoise(noise, conditions, sizes, guidance_scale, num_inference_steps)
        with lent(self.vae, self.device):
            pictures = [self._picture(latent) for latent in drawn]
        return self._safe(pictures)

    def _checked_size(self, height: int | None, width: int | None) -> tuple[int, int]:
        size, unit = self.config.image_size, self.config.vae_scale
        for name, value in (("height", height), ("width", width)):
            if value is not None and (value <= 0 or value % unit):
                raise UserError(f"{name}={value}: this decoder draws in multiples of {unit} pixels, such as {size}")
        return height or size, width or size

    def _conditions(self, embeds: Tensor, negative: Tensor | None, copies: int) -> list[Tensor]:
        """The embeddings for every picture: conditional, then, with guidance, unconditional, as the published code."""
        for one in (embeds, negative):
            if one is not None and (one.dim() != 3 or one.shape[-1] != self.config.condition_width):
                raise UserError(
                    f"embeddings of shape {list(one.shape)}: this decoder takes [prompts, tokens, "
                    f"{self.config.condition_width}]; check that it belongs to the model"
                )
        given = [embeds]
        if negative is not None:
            if negative.shape[0] not in (1, len(embeds)) or negative.shape[1] != embeds.shape[1]:
                raise UserError(f"negative_embeds of shape {list(negative.shape)} for embeds {list(embeds.shape)}")
            given.append(negative.expand(len(embeds), -1, -1))
        return [one.to(self.device, self.unet.dtype).repeat_interleave(copies, dim=0) for one in given]

    def _noise(self, embeds: Tensor, height: int, width: int, latents: Tensor | None, generator) -> Tensor:
        from diffusers.utils.torch_utils import randn_tensor

        unit = self.config.vae_scale
        shape = (len(embeds), self.unet.config.in_channels, height // unit, width // unit)
        if latents is not None and tuple(latents.shape) != shape:
            raise UserError(f"latents of shape {list(latents.shape)} instead of {list(shape)}")
        if isinstance(generator, Sequence) and len(generator) != len(embeds):
            raise UserError(f"{len(generator)} generators for {len(embeds)} pictures: give one, or one for each")
        if latents is None:
            generator = list(generator) if isinstance(generator, Sequence) else generator
            latents = randn_tensor(shape, generator=generator, device=self.device, dtype=torch.float32)
        return latents.to(self.device, torch.float32)

    def _denoise(self, noise: Tensor, conditions: list[Tensor], sizes: Tensor, guidance: float, steps: int) -> Tensor:
        """Latents out of noise. They are kept in float32 whatever the UNet computes in."""
        context = torch.cat(conditions)
        added = {"text_embeds": context.mean(dim=1), "time_ids": sizes.expand(len(context), -1)}
        self.scheduler.set_timesteps(steps, device=self.device)
        latents = noise * self.scheduler.init_noise_sigma
        for time in self.scheduler.timesteps:
            scaled = self.scheduler.scale_model_input(latents, time).to(context.dtype)
            predicted = self.unet(
                torch.cat([scaled] * len(conditions)), time, encoder_hidden_states=context, added_cond_kwargs=added
            ).sample.float()
            if len(conditions) == 2:
                positive, negative = predicted.chunk(2)
                predicted = negative + guidance * (positive - negative)
            latents = self.scheduler.step(predicted, time, latents).prev_sample
        return latents

    def _picture(self, latent: Tensor) -> Tensor:
        """One picture at a time, for at full size a decoded batch takes more memory than the UNet: (h, w, 3) uint8."""
        decoded = self.vae.decode((latent[None] / self.vae.config.scaling_factor).to(self.vae.dtype)).sample[0].float()
        return ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu()

    def _safe(self, pixels: list[Tensor]) -> list[Image.Image]:
        pictures = [Image.fromarray(one.numpy()) for one in pixels]
        if self.safety_checker is None:
            return pictures
        with lent(self.safety_checker, self.device):
            return withhold_unsafe(self.safety_checker, pictures, self.device)

    # -- weights ---------------------------------------------------------------------------------------------
    @classmethod
    def from_pretrained(cls, folder: str | Path, **kwargs) -> "Emu2VisualDecoder":
        """Read a folder with `unet/`, `vae/` and `scheduler/`, such as Emu2-Gen's; see `decoder_files.load_decoder`."""
        return decoder_files.load_decoder(cls, folder, **kwargs)

    @classmethod
    def from_native(cls, file: str | Path, config: Emu2DecoderConfig | None = None, **kwargs) -> "Emu2VisualDecoder":
        """Read one file of the native form, the multimodal model in it or not; default the published sizes."""
        return decoder_files.load_decoder(cls, file, config=config, **kwargs)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the folder that `from_pretrained` reads; see `decoder_files.save_decoder`."""
        decoder_files.save_decoder(self, folder)
