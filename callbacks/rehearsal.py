"""A run that will not fit fails at once."""

from collections.abc import Callable

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torchmetrics import Metric


class Rehearsal(Callback):
    """Runs the fullest micro-batch once before the first step, forward and backward, without an update.

    Gradients, metrics and generators are as before afterwards. Where the strategy makes the step itself (DeepSpeed) the
    forward pass alone is rehearsed.

    Args:
        batch: gives the micro-batch, on the CPU.
        wanted: None: only where the device is not the CPU.

    Attributes:
        running: whether it is at work; read where memory runs out.
    """

    def __init__(self, batch: Callable[[], dict[str, Tensor]], wanted: bool | None = None):
        self.batch = batch
        self.wanted = wanted
        self.running = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        on_cpu = trainer.strategy.root_device.type == "cpu"
        if self.wanted is False or (self.wanted is None and on_cpu):
            return
        self.running = True
        with isolate_rng():
            self._rehearse(trainer, pl_module)
        self.running = False

    def _rehearse(self, trainer: Trainer, pl_module: LightningModule) -> None:
        strategy = trainer.strategy
        batch = strategy.batch_to_device(self.batch())
        backward = not strategy.handles_gradient_accumulation
        with torch.set_grad_enabled(backward), trainer.precision_plugin.train_step_context():
            losses = pl_module.losses(batch)
            loss = sum(pl_module.loss_weight(kind) * loss for kind, (loss, _) in losses.items())
        if backward:
            loss.backward()
        for parameter in pl_module.parameters():
            parameter.grad = None
        for part in pl_module.modules():
            if isinstance(part, Metric):
                part.reset()
