"""How far a run is: a bar on a terminal, plain lines elsewhere."""

import sys
import time

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

from callbacks.steps import StepCallback

_SPEEDS = {"throughput/tokens_per_second": "{:,.0f} tokens/s, ", "throughput/mfu": "MFU {:.0%}, "}


def progress() -> Callback:
    """What suits where the output goes."""
    return ProgressBar() if sys.stdout.isatty() else ProgressLines()


class ProgressBar(RichProgressBar):
    """Lightning's bar over all steps of the run, which has no epochs to count."""

    def _get_train_description(self, current_epoch: int) -> str:
        return "Training"


class ProgressLines(StepCallback):
    """A line at every tenth of the run, and at least every `seconds`: step, loss, rate, time left."""

    def __init__(self, seconds: float = 30.0):
        self.seconds = seconds

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._first_step, self._start = trainer.global_step, time.perf_counter()
        self._told = self._start

    def on_step_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        now, step, total = time.perf_counter(), trainer.global_step, trainer.max_steps
        if trainer.is_global_zero and (step % max(total // 10, 1) == 0 or now - self._told > self.seconds):
            self._told = now
            rate = (step - self._first_step) / (now - self._start)
            loss = trainer.callback_metrics.get("train/loss")
            told = f"loss {float(loss):.4f}, " if loss is not None else ""
            for name, form in _SPEEDS.items():
                if name in trainer.callback_metrics:
                    told += form.format(float(trainer.callback_metrics[name]))
            left = time.strftime("%H:%M:%S", time.gmtime((total - step) / rate))
            print(f"step {step}/{total}: {told}{rate:.2f} steps/s, {left} left", flush=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            figures = {n: float(v) for n, v in trainer.callback_metrics.items() if n.startswith("val/")}
            told = ", ".join(f"{name} {value:.4f}" for name, value in sorted(figures.items()))
            print(f"step {trainer.global_step}, validation: {told}", flush=True)
