"""Training of the visual decoder: its UNet on embeddings of pictures (paper section 2.2.3), and a small VAE."""

from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from emu2_lit.errors import UserError
from emu2_lit.model import Emu2DecoderConfig, Emu2VisualDecoder
from emu2_lit.model.detokenizer import Emu2Detokenizer, reconstruct
from emu2_lit.modules.base import TuningModule
from emu2_lit.samples.seeding import hash_seed

_INPUTS = ("pixel_values", "target_pixels", "sizes")


class DrawingTuning(TuningModule):
    """Base of what trains a part of the visual decoder on pictures alone; the rest of it is frozen.

    Args:
        model: as in TuningModule; only its tower is read.
        decoder: a decoder, its configuration (random weights), or a folder or native file.
    Raises:
        UserError: adapters are asked for, or diffusers is not installed.
    """

    kinds = ("visual",)
    trained_part = ""  # of the decoder

    def __init__(self, *args, decoder: Emu2VisualDecoder | Emu2DecoderConfig | str | Path, **kwargs):
        super().__init__(*args, **kwargs)
        self.decoder_source = decoder

    def _check(self) -> None:
        if self.lora or self.quantization:
            raise UserError("the visual decoder is tuned in full: set tuning.method: full, and no model.quantization")

    @abstractmethod
    def _network(self) -> nn.Module:
        """What holds the decoder, as `decoder`, and all else that computes."""

    def configure_model(self) -> None:
        if self.model is not None:
            return
        self.model = self._network().requires_grad_(False)
        self.model.decoder.vae.float()
        trained = getattr(self.model.decoder, self.trained_part).requires_grad_(True).float()
        self.model.train()  # nothing frozen here has dropout or running figures
        if self.activation_checkpointing:
            trained.enable_gradient_checkpointing()

    def _decoder(self, condition_width: int | None = None) -> Emu2VisualDecoder:
        source = self.decoder_source
        if isinstance(source, Emu2VisualDecoder):
            return source
        with torch.random.fork_rng():
            torch.manual_seed(hash_seed(self.seed, "random decoder") % 2**63)
            if isinstance(source, Emu2DecoderConfig):
                return Emu2VisualDecoder(source)
            read = Emu2VisualDecoder.from_native if Path(source).is_file() else Emu2VisualDecoder.from_pretrained
            return read(
                source, dtype=self.weights_dtype, device=self._home, safety_checker=False,
                condition_width=condition_width,
            )  # fmt: skip

    @property
    def _home(self) -> torch.device | str:
        return self.trainer.strategy.root_device if self._trainer else "cpu"

    def losses(self, batch: dict[str, Any]) -> dict[str, tuple[Tensor, Tensor]]:
        """A picture counts as many targets as it has visual tokens, so that the loss is the mean over pictures."""
        targets = batch["visual_targets_mask"][:, 1:].sum()
        inputs = [batch.get(key) for key in _INPUTS]
        if inputs[0] is None:  # all were skipped: a pass that counts nothing, for other ranks wait for its gradients
            inputs = self._nothing()
        return {"visual": (self.loss(*inputs), targets)}

    @abstractmethod
    def loss(self, pixel_values: Tensor, target_pixels: Tensor, sizes: Tensor) -> Tensor:
        """The mean loss of some pictures; see `Emu2Detokenizer.forward` for the shapes."""

    def _nothing(self) -> list[Tensor]:
        size, seen = self.model.decoder.config.image_size, self.processor.image_size
        return [torch.zeros(1, *shape, device=self.device) for shape in ((3, seen, seen), (3, size, size), (6,))]

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """The same draws in every validation."""
        with torch.random.fork_rng():
            torch.manual_seed(hash_seed("validation", batch_idx, self.global_rank) % 2**63)
            super().validation_step(batch, batch_idx)

    def save_decoder(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write what `Emu2VisualDecoder.from_pretrained` reads, the UNet in `dtype`. Ends the training: the UNet stays
        in that type."""
        if dtype not in (None, self.model.decoder.unet.dtype):
            self.model.decoder.unet.to(dtype)
        self.model.decoder.save_pretrained(folder)


class DecoderTuning(DrawingTuning):
    """The UNet learns to draw pictures from their embeddings; tower and VAE are frozen.

    Args:
        noise_offset, condition_drop: see `Emu2Detokenizer`.
        new_conditions: what reads conditions starts at random, of the tower's width; to start from SDXL, as the paper.
    """

    trained_part = "unet"

    def __init__(
        self, *args, noise_offset: float = 0.1, condition_drop: float = 0.1, new_conditions: bool = False, **kwargs
    ):
        super().__init__(*args, **kwargs)
        self.noise_offset, self.condition_drop, self.new_conditions = noise_offset, condition_drop, new_conditions

    def _network(self) -> Emu2Detokenizer:
        tower = self.build_tower(self._home)
        decoder = self._decoder(tower.config.vision_config.hidden_size if self.new_conditions else None)
        return Emu2Detokenizer(tower, decoder, self.noise_offset, self.condition_drop)

    def loss(self, pixel_values: Tensor, target_pixels: Tensor, sizes: Tensor) -> Tensor:
        return self.model(pixel_values, target_pixels, sizes)


class AutoencoderTuning(DrawingTuning):
    """The VAE learns to give pictures back: mean absolute error and a little divergence from the unit normal.

    For small decoders: SDXL's VAE is taken as it is. Every validation sets the VAE's `scaling_factor`, so that the
    mean square of what the UNet will learn is 1, and logs `val/latent_scale`.

    Args:
        kl_weight: of the divergence, per latent.
    """

    trained_part = "vae"

    def __init__(self, *args, kl_weight: float = 1e-6, **kwargs):
        super().__init__(*args, **kwargs)
        self.kl_weight = kl_weight
        self.latent_square = MeanMetric()

    def _network(self) -> nn.Module:
        network = nn.Module()
        network.decoder = self._decoder()
        return network

    def loss(self, pixel_values: Tensor, target_pixels: Tensor, sizes: Tensor) -> Tensor:
        error, divergence, latents = reconstruct(self.model.decoder.vae, target_pixels)
        if not self.training:
            self.latent_square.update(latents.float().square().mean(), weight=len(latents))
        return error + self.kl_weight * divergence

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        if not self.latent_square.update_called:
            return
        scale = float(self.latent_square.compute().rsqrt())
        self.latent_square.reset()
        self.model.decoder.vae.register_to_config(scaling_factor=scale)
        self.log("val/latent_scale", scale)
