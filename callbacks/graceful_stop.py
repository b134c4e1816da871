"""Stop when asked to, at a moment when all ranks can."""

import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from callbacks.steps import StepCallback
from emu2_lit.job import REQUEUE, STOP
from emu2_lit.signals import REQUESTS, early

_LEAVE, _STOP = 1, 2  # what is asked for: to go on later, or to stop for good; the stronger holds


class GracefulStop(StepCallback):
    """On SIGINT, SIGTERM, SIGUSR1 or SIGUSR2, on any rank, or where a file asks for it, finishes the optimizer step and
    ends the fit; `StepCheckpoint` then saves.

    The handlers only raise a flag: saving inside one would catch a step half done, and Lightning's own, which talks
    to the other ranks from inside the handler, hangs them (so it is replaced while the fit lasts). A second SIGINT
    interrupts at once. Put it first in the list of callbacks, so that its handlers are there before any long work.

    Args:
        signals: what to listen to.
        folder: where files named `stop` and `requeue` are requests; they are removed when heard.

    Attributes:
        stopped: the last fit ended here and not at its last step.
        final: it was asked to stop for good (SIGINT, the file `stop`), not to make room and go on later.
        reason: what asked for it.
        received: the last signal that this process got during the fit.
        seconds: from the request to the end of the fit, its save included.
    """

    def __init__(
        self, signals: Sequence[signal.Signals] = (signal.SIGINT, *REQUESTS), folder: str | Path | None = None
    ):
        self.signals = tuple(signals)
        self.folder = Path(folder) if folder else None
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, object] = {}
        self._forget()

    def _forget(self) -> None:
        self.stopped = self.final = False
        self.reason, self.seconds, self._asked_at = "", 0.0, 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._forget()
        self._process, self._looked = os.getpid(), 0.0
        self.received, early.received = early.received, None  # came while the model was loading
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            self._previous = {number: signal.signal(number, self._flag) for number in self.signals}

    def _flag(self, number: int, frame: object) -> None:
        if os.getpid() != self._process:  # a data worker that was forked and has not yet set its own
            return
        if number == self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        self._asked_at = self._asked_at or time.perf_counter()

    def on_step_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        file = self._file(trainer)
        wanted = _STOP if STOP == file or self.received == signal.SIGINT else _LEAVE if file or self.received else 0
        agreed = trainer.strategy.reduce(torch.tensor(wanted, device=pl_module.device), reduce_op="max")
        if not agreed or trainer.global_step == trainer.max_steps:  # the last step ends by itself
            return
        self.final = int(agreed) == _STOP
        self.reason = self.received.name if self.received else f"file {file}" if file else "a signal to another rank"
        if file:
            (self.folder / file).unlink(missing_ok=True)
        rank_zero_info(f"{self.reason}: stopping after step {trainer.global_step}")
        self.stopped = True
        trainer.should_stop = True
        trainer.limit_val_batches = 0  # Lightning would validate first, longer than a scheduler may wait

    def _file(self, trainer: Trainer) -> str | None:
        """The request that lies in the folder; looked for by one rank, once a second."""
        if self.folder is None or not trainer.is_global_zero or time.perf_counter() - self._looked < 1:
            return None
        self._looked = time.perf_counter()
        return next((name for name in (STOP, REQUEUE) if (self.folder / name).exists()), None)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:  # not within a fit
            early.listen()  # Lightning has set its own again

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._asked_at:
            self.seconds = time.perf_counter() - self._asked_at

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
