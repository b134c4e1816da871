"""Ends a run of several processes in which nothing moves any more, and says who holds it up."""

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer

_SHOWN = 6  # calls of a stack


class StuckWatch(Callback):
    """When no micro-batch has begun or ended on some rank for `seconds`, every rank tells where it stands, one message
    names those that are behind with the last completed step, and all processes end with status 1.

    A rank that sleeps, or that has left a collective out, keeps all others waiting inside theirs: the process group's
    own timeout ends them with an error that names neither. The watch is a thread in each process; the ranks talk
    through the store that they met at. Validation is not watched, its length is anyone's guess. Give it a time that no
    micro-batch, and no save, takes.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._watch: _Watch | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            self._watch = _Watch(trainer.global_rank, trainer.world_size, self.seconds)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._watch:
            micro_batch = batch_idx % trainer.accumulate_grad_batches
            self._watch.note(trainer.global_step, f"in micro-batch {micro_batch + 1} of step {trainer.global_step + 1}")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._watch:
            self._watch.note(trainer.global_step, "between two micro-batches, where data are read")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._watch:
            self._watch.pause()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._end()

    def _end(self) -> None:
        if self._watch:
            self._watch.ended.set()
            self._watch = None


class _Watch:
    """The thread of one rank."""

    def __init__(self, rank: int, world_size: int, seconds: float):
        self.rank, self.world_size, self.seconds = rank, world_size, seconds
        self.interval = min(seconds / 5, 5.0)
        self.ended = threading.Event()
        self._main = threading.main_thread().ident
        self._moves, self._step, self._doing = 0, 0, ""
        self._moved: float | None = None
        server = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])  # where the process group has met
        self._store = dist.TCPStore(*server, is_master=False, timeout=timedelta(seconds=30))
        threading.Thread(target=self._run, name="stuck watch", daemon=True).start()

    def note(self, step: int, doing: str) -> None:
        """The main thread moves: `step` steps are complete."""
        self._moves, self._step, self._doing, self._moved = self._moves + 1, step, doing, time.monotonic()

    def pause(self) -> None:
        """Until the next move."""
        self._moved = None

    def _run(self) -> None:
        while not self.ended.wait(self.interval):
            if self._is_stuck():
                self._tell()
                os._exit(1)

    def _is_stuck(self) -> bool:
        moved = self._moved
        if moved is not None and time.monotonic() - moved > self.seconds:
            return True
        try:
            return self._store.check([_key("called")])
        except dist.DistError:  # the first rank's process is gone, and with it the store: the run ends anyway
            return False

    def _tell(self) -> None:
        """Exchange reports; the lowest rank that can says what they mean. Who leaves sooner breaks the collectives that
        the others wait in, and their processes end before they have spoken."""
        reports = {self.rank: self._report()}
        try:
            reports = self._exchanged(reports[self.rank])
        except dist.DistError:  # no store any more: say what is known
            pass
        if self.rank == min(reports):
            print(verdict(reports, self.world_size, self.seconds), file=sys.stderr, flush=True)
            with suppress(dist.DistError):
                self._store.set(_key("said"), "")
            time.sleep(self.interval)  # launchers kill all when one leaves, and with the first rank goes the store
        else:
            with suppress(dist.DistError):
                self._store.wait([_key("said")], timedelta(seconds=10 * self.interval))

    def _exchanged(self, report: dict[str, Any]) -> dict[int, dict[str, Any]]:
        """The reports of all ranks that answer."""
        self._store.set(_key("called"), "")
        self._store.set(_key(self.rank), json.dumps(report))
        time.sleep(2 * self.interval)
        ranks = [rank for rank in range(self.world_size) if self._store.check([_key(rank)])]
        return {rank: json.loads(self._store.get(_key(rank))) for rank in ranks}

    def _report(self) -> dict[str, Any]:
        calls = traceback.extract_stack(sys._current_frames()[self._main])
        return {
            "moves": self._moves,
            "step": self._step,
            "doing": self._doing,
            "waits": _waits(calls),
            "stack": [f"{call.filename}:{call.lineno} in {call.name}" for call in calls[-_SHOWN:]],
        }


def verdict(reports: dict[int, dict[str, Any]], world_size: int, seconds: float) -> str:
    """Which ranks hold the others up: those that do not answer; else, of those that have come least far, the ones that
    do not wait for others."""
    silent = [rank for rank in range(world_size) if rank not in reports]
    least = min(report["moves"] for report in reports.values())
    behind = [rank for rank, report in reports.items() if report["moves"] == least]
    behind = [rank for rank in behind if not reports[rank]["waits"]] or behind
    step = min(report["step"] for report in reports.values())
    lines = [f"emu2-lit: nothing has moved for {seconds:g} seconds; the last completed step is {step}."]
    lines += [f"Rank {rank} does not answer: its process is gone, or stands still." for rank in silent]
    for rank in [] if silent else behind:
        lines.append(f"Rank {rank} holds the others up, {reports[rank]['doing']}; there it is in")
        lines += [f"  {call}" for call in reversed(reports[rank]["stack"])]
    others = [rank for rank in reports if silent or rank not in behind]
    lines += [f"Rank {rank} waits, {reports[rank]['doing']}." for rank in others[:_SHOWN]]
    lines += [f"So do {len(others) - _SHOWN} more."] if len(others) > _SHOWN else []
    lines.append(
        "The run ends; the same command goes on from the last checkpoint. If a micro-batch or a save does take so "
        "long, raise callbacks.stuck_after"
    )
    return "\n".join(lines)


def _waits(calls: Sequence[traceback.FrameSummary]) -> bool:
    """Whether the innermost call is one that waits for other ranks: a collective, or a backward that holds some."""
    return "torch/distributed" in calls[-1].filename or calls[-1].name == "_engine_run_backward"


def _key(name: str | int) -> str:
    return f"emu2_lit/stuck/{name}"
