"""Where a run stands, in a file that anybody can read."""

import json
import os
import socket
import time
from pathlib import Path

from lightning import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from callbacks.graceful_stop import GracefulStop
from callbacks.records import write_text
from callbacks.steps import StepCallback


class StatusFile(StepCallback):
    """Keeps `status.json` up to date: {phase, step, max_steps, steps_per_second, restarts, reason, job, host, pid,
    time}.

    `phase` is training, validating, trained or stopped; the rate is that of this session, in optimizer steps per
    second, validations included.

    Args:
        seconds: between two writings at least.
        restarts: how often the job was started again; logged as `restarts` when a session begins.
        job: names the submitted job, where there is one, and its start.
    """

    def __init__(self, path: str | Path, seconds: float = 5.0, restarts: int = 0, job: str | None = None):
        self.path, self.seconds, self.restarts, self.job = Path(path), seconds, restarts, job

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._first_step, self._start = trainer.global_step, time.perf_counter()
        for logger in trainer.loggers if self.restarts else ():
            logger.log_metrics({"restarts": self.restarts}, step=trainer.global_step)
        self._write(trainer, "training")

    def on_step_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if time.perf_counter() - self._written > self.seconds:
            self._write(trainer, "training")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._write(trainer, "validating")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._write(trainer, "training")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        stops = [one for one in trainer.callbacks if isinstance(one, GracefulStop) and one.stopped]
        self._write(trainer, "stopped" if stops else "trained", stops[0].reason if stops else None)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if hasattr(self, "_start"):
            self._write(trainer, "stopped", f"{type(exception).__name__}: {exception}"[:500])

    def _write(self, trainer: Trainer, phase: str, reason: str | None = None) -> None:
        self._written = time.perf_counter()
        if not trainer.is_global_zero:
            return
        step, passed = trainer.global_step, self._written - self._start
        done = step - self._first_step
        record = {
            "phase": phase, "step": step, "max_steps": trainer.max_steps,
            "steps_per_second": done / passed if done else None, "restarts": self.restarts, "reason": reason,
            "job": self.job, "host": socket.gethostname(), "pid": os.getpid(), "time": time.time(),
        }  # fmt: skip
        write_text(self.path, json.dumps(record) + "\n")
