"""What callbacks that run the model in the middle of a fit share."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning import Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from PIL import Image
from torch import nn


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; modes of all submodules and every generator's state as before, outside."""
    modes = [(part, part.training) for part in module.modules()]
    with isolate_rng():
        module.eval()
        try:
            yield
        finally:
            for part, training in modes:
                part.training = training


def log_image(trainer: Trainer, name: str, image: Image.Image) -> None:
    """To the loggers that take images: those with `log_image` (W&B) or an experiment with `add_image` (TensorBoard)."""
    for logger in trainer.loggers:
        if hasattr(logger, "log_image"):
            logger.log_image(name, [image], step=trainer.global_step)
        elif hasattr(logger.experiment, "add_image"):
            pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
            pixels = pixels.view(image.height, image.width, 3)
            logger.experiment.add_image(name, pixels, trainer.global_step, dataformats="HWC")
