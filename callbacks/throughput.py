"""How fast it trains, what it waits for, how much memory it takes."""

import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from lightning import LightningModule, Trainer

from callbacks.steps import StepCallback
from emu2_lit.model import packing
from emu2_lit.model.objective import IGNORE
from emu2_lit.ranks import data_place

_GIB = 2**30
COUNTED = ("samples", "tokens", "learned", "pairs", "pictures", "positions")


class Throughput(StepCallback):
    """Logs tokens/s (all, and those learned), samples/s, the share of padding in the batches (which these rates leave
    out), the share of time waiting for data, peak memory and, where
    the work of a sample and the rate of a device are known (`measure_use`), MFU: model FLOPs utilisation, the share of
    that rate which the model's own operations reach, without padding and without what is recomputed.

    Rates are over the completed steps since the last log, of all ranks together. Time is that of the micro-batches
    and of the gaps between them, in which the loader is waited for; a gap that held a validation or a save counts
    nowhere. Totals go on over a resume.
    """

    def __init__(self):
        self._state = {"samples": 0, "tokens": 0, "seconds": 0.0, "wall_seconds": 0.0, "peak_memory_bytes": 0}

        self._work: Callable[..., float] | None = None
        self._rate = 0.0

    def measure_use(self, work: Callable[..., float], rate: float) -> None:
        """Log MFU from here on.

        Args:
            work: gives floating-point operations of `tokens`, `pairs` (the sum of squared lengths), `pictures` and
                `learned` tokens.
            rate: FLOP/s that one device is stated to reach.
        """
        self._work, self._rate = work, rate

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._wall_mark = time.perf_counter()
        self._batch_end: float | None = None
        self._counts = torch.zeros(len(COUNTED), dtype=torch.int64, device=pl_module.device)
        self._busy = self._waited = 0.0
        self._clear_recent()

    def _clear_recent(self) -> None:
        self._recent = {name: 0 for name in (*COUNTED, "seconds", "waited")}

    # -- the clock -------------------------------------------------------------------------------------------
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._batch_start = time.perf_counter()
        if self._batch_end is not None:
            self._waited += self._batch_start - self._batch_end

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._counts += _count(batch)
        self._batch_end = time.perf_counter()
        self._busy += self._batch_end - self._batch_start
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._batch_end = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._batch_end = None

    # -- the counts ------------------------------------------------------------------------------------------
    def on_step_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        mine = self._counts if data_place(trainer).leads else torch.zeros_like(self._counts)
        counts = trainer.strategy.reduce(mine, reduce_op="sum").tolist()
        step = dict(zip(COUNTED, counts, strict=True), seconds=self._busy + self._waited, waited=self._waited)
        for name, value in step.items():
            self._recent[name] += value
        for name in ("samples", "tokens", "seconds"):
            self._state[name] += step[name]
        now = time.perf_counter()
        self._state["wall_seconds"] += now - self._wall_mark
        self._wall_mark = now
        self._state["peak_memory_bytes"] = max(self._state["peak_memory_bytes"], peak_memory_bytes(pl_module.device))
        self._counts.zero_()
        self._busy = self._waited = 0.0
        if trainer.global_step % max(trainer.log_every_n_steps, 1) == 0:
            self._log(trainer.world_size)

    def _log(self, devices: int) -> None:
        recent, seconds = self._recent, max(self._recent["seconds"], 1e-9)
        self.log("throughput/tokens_per_second", recent["tokens"] / seconds, prog_bar=True)
        if self._work:
            done = self._work(**{name: recent[name] for name in ("tokens", "pairs", "pictures", "learned")})
            self.log("throughput/mfu", done / (seconds * devices * self._rate), prog_bar=True)
        self.log("throughput/learned_tokens_per_second", recent["learned"] / seconds)
        self.log("throughput/samples_per_second", recent["samples"] / seconds)
        self.log("throughput/padding", 1 - recent["tokens"] / max(recent["positions"], 1))
        self.log("throughput/data_wait", recent["waited"] / seconds)
        self.log("throughput/peak_memory_gib", self._state["peak_memory_bytes"] / _GIB)
        self._clear_recent()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        peak = torch.tensor(self._state["peak_memory_bytes"], device=pl_module.device)
        self._state["peak_memory_bytes"] = int(trainer.strategy.reduce(peak, reduce_op="max"))
        self._state["wall_seconds"] += time.perf_counter() - self._wall_mark

    def totals(self) -> dict[str, float]:
        """Totals of the run, earlier sessions included: samples and tokens drawn, seconds of training (validation
        and saves included in `wall_seconds` only), the highest peak memory of a rank in bytes."""
        state = self._state
        return {
            "consumed_samples": state["samples"],
            "consumed_tokens": state["tokens"],
            "wall_seconds": state["wall_seconds"],
            "tokens_per_second": state["tokens"] / state["seconds"] if state["seconds"] else 0.0,
            "peak_memory_bytes": state["peak_memory_bytes"],
        }

    def state_dict(self) -> dict[str, Any]:
        return dict(self._state)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._state.update(state_dict)


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory that was in use at once: on a GPU what torch allocated, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _count(batch: dict[str, Any]) -> torch.Tensor:
    """What is COUNTED, without padding; stays on the device, so that it waits for nothing."""
    mask = batch["attention_mask"]
    places = packing.positions(batch.get("segment_ids", mask))  # a mask is that of one sample in each row
    pictures = sum(len(batch[kind]) for kind in ("pixel_values", "video_pixel_values") if batch.get(kind) is not None)
    return torch.stack([
        mask.new_tensor(len(batch["sample_ids"])), mask.sum(), (batch["labels"] != IGNORE).sum(),
        ((2 * places + 1) * mask).sum(),  # the first odd numbers add up to the square of how many they are
        mask.new_tensor(pictures), mask.new_tensor(mask.numel()),
    ])  # fmt: skip
