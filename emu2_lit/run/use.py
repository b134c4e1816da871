"""How much of the devices a run uses, where their rate is known."""

import torch
from lightning import Trainer

from callbacks import Throughput
from emu2_lit.plan import gpu_rate
from emu2_lit.recipe.schema import Recipe
from emu2_lit.run.plan import plannable, work_of_samples


def measure_use(recipe: Recipe, trainer: Trainer) -> None:
    """Let the run log MFU; it cannot where no rate is stated for the device, such as a CPU."""
    watching = [one for one in trainer.callbacks if isinstance(one, Throughput)]
    device = trainer.strategy.root_device
    rate = gpu_rate(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    if rate and watching and plannable(recipe):
        watching[0].measure_use(work_of_samples(recipe).of, rate)
