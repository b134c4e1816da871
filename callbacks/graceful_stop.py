"""Stop when asked to, at a moment when all ranks can."""

import signal
import threading
from collections.abc import Sequence

from lightning import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from callbacks.steps import StepCallback


class GracefulStop(StepCallback):
    """On SIGINT or SIGTERM, on any rank, finishes the optimizer step and ends the fit; `StepCheckpoint` then saves.

    The handlers only raise a flag: saving inside one would catch a step half done, and Lightning's own, which talks
    to the other ranks from inside the handler, hangs them (so it is replaced while the fit lasts). A second SIGINT
    interrupts at once. Put it first in the list of callbacks, so that its handlers are there before any long work.

    Args:
        signals: what to listen to.

    Attributes:
        stopped: the last fit ended here and not at its last step.
    """

    def __init__(self, signals: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM)):
        self.signals = tuple(signals)
        self.stopped = False
        self._received: signal.Signals | None = None
        self._previous: dict[signal.Signals, object] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self.stopped, self._received = False, None
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            self._previous = {number: signal.signal(number, self._flag) for number in self.signals}

    def _flag(self, number: int, frame: object) -> None:
        if number == self._received == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = signal.Signals(number)

    def on_step_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        anyone = trainer.strategy.reduce_boolean_decision(self._received is not None, all=False)
        if not anyone or trainer.global_step == trainer.max_steps:  # the last step ends by itself
            return
        rank_zero_info(f"{self._received_name()}: stopping after step {trainer.global_step}")
        self.stopped = True
        trainer.should_stop = True
        trainer.limit_val_batches = 0  # Lightning would validate first, longer than a scheduler may wait

    def _received_name(self) -> str:
        return self._received.name if self._received else "A signal to another rank"

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
