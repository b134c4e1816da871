"""The optimizer step as an event."""

from typing import Any

from lightning import Callback, LightningModule, Trainer


class StepCallback(Callback):
    """Calls `on_step_end` once for every completed optimizer step, however many micro-batches it took.

    Lightning's `on_train_batch_end` comes after each micro-batch; `trainer.global_step` moves only with the last one
    of a window. A resumed run starts where its checkpoint stands, so its first micro-batch is no event either.
    """

    _last_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step > self._last_step:
            self._last_step = trainer.global_step
            self.on_step_end(trainer, pl_module)

    def on_step_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """`trainer.global_step` optimizer steps are complete; called on every rank."""
