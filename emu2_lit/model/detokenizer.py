"""How the visual decoder learns: pictures from their own embeddings (paper section 2.2.3), and its VAE by itself."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emu2_lit.errors import UserError
from emu2_lit.model.decoder import Emu2VisualDecoder, diffusers
from emu2_lit.model.tower import Emu2Tower


class Draws(NamedTuple):
    """What is random in one pass over B pictures.

    Attributes:
        noise: (B, channels, height, width) of the latents.
        times: (B,) int64, steps of the noise schedule, uniform.
        dropped: (B,) bool, pictures that are learned without their embeddings.
    """

    noise: Tensor
    times: Tensor
    dropped: Tensor


class Emu2Detokenizer(nn.Module):
    """A frozen tower and a decoder; the UNet learns to find the noise in a picture, given the picture's embeddings.

    Args:
        noise_offset: of the deviation of noise that a whole channel shares (paper: 0.1).
        condition_drop: share of pictures that are learned from the embeddings of an empty one, which guidance needs
            (paper: 0.1; it does not say what stands in their place, this is what autoencoding goes away from).
    Raises:
        UserError: tower and decoder do not belong together, or the decoder predicts something else than noise.
    """

    def __init__(
        self, tower: Emu2Tower, decoder: Emu2VisualDecoder, noise_offset: float = 0.1, condition_drop: float = 0.1
    ):
        super().__init__()
        width, drawn = tower.config.vision_config.hidden_size, decoder.config.condition_width
        if width != drawn:
            raise UserError(f"The model makes visual embeddings of width {width}, the decoder draws those of {drawn}")
        self.tower, self.decoder = tower, decoder
        self.noise_offset, self.condition_drop = noise_offset, condition_drop
        self.schedule = diffusers().DDPMScheduler.from_config(decoder.scheduler.config)
        if self.schedule.config.prediction_type != "epsilon":
            raise UserError(
                f"the decoder predicts {self.schedule.config.prediction_type}; only decoders that predict noise "
                "(epsilon), as the published one, can be tuned"
            )
        self._null: Tensor | None = None

    def latents(self, target_pixels: Tensor) -> Tensor:
        """A sample of the VAE's latents, scaled; in the VAE's own precision, for SDXL's overflows in 16 bits."""
        with torch.no_grad(), torch.autocast(target_pixels.device.type, enabled=False):
            vae = self.decoder.vae
            return vae.encode(target_pixels.to(vae.dtype)).latent_dist.sample() * vae.config.scaling_factor

    def draws(self, latents: Tensor) -> Draws:
        """Draw what is random, from torch's own generators."""
        count, device = len(latents), latents.device
        shared = torch.randn(*latents.shape[:2], 1, 1, device=device, dtype=latents.dtype)
        return Draws(
            noise=torch.randn_like(latents) + self.noise_offset * shared,
            times=torch.randint(self.schedule.config.num_train_timesteps, (count,), device=device),
            dropped=torch.rand(count, device=device) < (self.condition_drop if self.training else 0.0),
        )

    def conditions(self, pixel_values: Tensor, dropped: Tensor) -> Tensor:
        """Embeddings of pictures, and those of an empty one where they are dropped: (B, n_query, width)."""
        with torch.no_grad():
            if self._null is None or self._null.device != pixel_values.device:
                self._null = self.tower.encode_image(self.tower.null_image())
            embeds = self.tower.encode_image(pixel_values)
        return torch.where(dropped[:, None, None], self._null.to(embeds.dtype), embeds)

    def forward(self, pixel_values: Tensor, target_pixels: Tensor, sizes: Tensor) -> Tensor:
        """Mean squared error of the noise.

        Args:
            pixel_values: (B, 3, S, S), as the tower takes them.
            target_pixels: (B, 3, P, P) in -1..1, as the VAE takes them.
            sizes: (B, 6): height and width of the picture, top and left of the cut, height and width of the cut.
        """
        latents = self.latents(target_pixels)
        draws = self.draws(latents)
        return self.loss(latents, self.conditions(pixel_values, draws.dropped), sizes, draws)

    def loss(self, latents: Tensor, embeds: Tensor, sizes: Tensor, draws: Draws) -> Tensor:
        """Mean squared error of the noise, for given draws."""
        unet = self.decoder.unet
        noisy, embeds = self.schedule.add_noise(latents, draws.noise, draws.times), embeds.to(unet.dtype)
        added = {"text_embeds": embeds.mean(dim=1), "time_ids": sizes}
        predicted = unet(
            noisy.to(unet.dtype), draws.times, encoder_hidden_states=embeds, added_cond_kwargs=added
        ).sample
        return F.mse_loss(predicted.float(), draws.noise.float())


def reconstruct(vae: nn.Module, target_pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures through the VAE and back.

    Returns:
        Mean absolute error of the pixels, mean divergence of a latent from the unit normal, and the latents.
    """
    posterior = vae.encode(target_pixels.to(vae.dtype)).latent_dist
    latents = posterior.sample()
    error = F.l1_loss(vae.decode(latents).sample.float(), target_pixels.float())
    return error, posterior.kl().sum() / latents.numel(), latents.detach()
