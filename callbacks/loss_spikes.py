"""Losses that stand out are told."""

import math
from collections import defaultdict, deque
from pathlib import Path
from statistics import median
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from callbacks.faults import FaultCallback, listed

_NORMAL = 1.4826  # median deviations of one standard deviation, where values are normally distributed


class LossSpikes(FaultCallback):
    """Tells of steps whose `train/loss` is far above those before: more than `deviations` standard deviations above
    the median, the deviation being estimated by the median one, which spikes themselves hardly move. Each type of
    step has its own history. Nothing is stopped.

    Args:
        deviations: how many count as far; a spike is also at least a tenth above the median.
        path: where the samples of a spike are written.
        window: steps that a loss is compared with.
        least: steps of history before anything is judged.
    """

    def __init__(self, deviations: float = 8.0, path: str | Path | None = None, window: int = 100, least: int = 20):
        super().__init__(path)
        self.deviations, self.window, self.least = deviations, window, least
        self._spikes = 0
        self._recent: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=window))
        self._type = ""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self._type = (batch.get("window") or {}).get("type") or ""

    def on_step_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The loss is that of all ranks, so all judge alike."""
        loss, recent = float(trainer.callback_metrics.get("train/loss", math.nan)), self._recent[self._type]
        if not math.isfinite(loss):
            return
        if len(recent) >= self.least and loss > (limit := self._limit(recent)):
            self._spikes += 1
            step, usual = trainer.global_step, median(recent)
            samples = [row for rows in self.micro_batches for row in rows]
            samples = self.note(trainer, step, "loss spike", samples, loss=loss, usual=usual, limit=limit)
            rank_zero_warn(
                f"step {step}: the loss is {loss:.4g}, a spike: the last {len(recent)} steps had {usual:.4g} "
                f"(median), and {limit:.4g} is far. The samples: {listed(samples)}"
            )
        recent.append(loss)

    def _limit(self, recent: deque[float]) -> float:
        middle = median(recent)
        spread = _NORMAL * median(abs(loss - middle) for loss in recent)
        return middle + max(self.deviations * spread, 0.1 * abs(middle))

    def totals(self) -> dict[str, int]:
        return {"loss_spikes": self._spikes}

    def state_dict(self) -> dict[str, Any]:
        return {"spikes": self._spikes, "recent": {name: list(losses) for name, losses in self._recent.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._spikes = state_dict["spikes"]
        for name, losses in state_dict["recent"].items():
            self._recent[name].extend(losses)
