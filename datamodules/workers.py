"""The processes that read and decode, and what happens when one of them dies."""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from multiprocessing import RawArray
from multiprocessing.synchronize import Event
from multiprocessing.util import Finalize
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from datamodules.collate import Collator, Draw
from datamodules.dataset import Position, SampleDataset
from emu2_lit.errors import UserError
from emu2_lit.signals import shielded

_log = logging.getLogger(__name__)


class Batches:
    """Iterates over the batches of a sampler, read by `workers` processes, or by this one.

    A worker that dies (killed for want of memory, crashed in a decoder) is reported with the sample that it was
    reading; all workers are then started anew, from the first batch that has not been given out. So no batch is lost
    or moves. A second death at the same sample, or before another batch has come, is raised.

    Raises:
        UserError: a worker has died again.
    """

    def __init__(self, dataset: SampleDataset, sampler: Iterable[list[Any]], collate: Collator, workers: int = 0):
        self.dataset, self.sampler, self.collate, self.workers = dataset, sampler, collate, workers

    def __iter__(self) -> Iterator[Any]:
        given, last = 0, None
        while True:
            board = _Board(self.workers)
            iterator = self._start(given, board)
            try:
                for batch in iterator:
                    given += 1
                    yield batch
                return
            except (RuntimeError, OSError, EOFError):  # of the loader; those of reading come as batches
                death = _death(iterator)
                if death is None:
                    raise
            del iterator  # its workers end before others start
            told, position = self._describe(*death, board), board[death[0]]
            if last and (given == last[0] or position == last[1] is not None):
                raise UserError(f"{told}, and has done so before. {_ADVICE}")
            last = given, position
            _log.warning(f"{told}; it is started again, and no sample is lost")

    def _start(self, given: int, board: "_Board") -> Iterator[Any]:
        """Torch's loader, from batch `given` on. It leaves the process's own random generator alone."""
        leaving = multiprocessing.Event()
        Finalize(None, leaving.set, exitpriority=1)  # Python then terminates its daemons, the workers, and waits
        loader = DataLoader(
            _Watched(self.dataset, board) if self.workers else self.dataset,
            batch_sampler=islice(self.sampler, given, None),
            collate_fn=self.collate,
            num_workers=self.workers,
            worker_init_fn=partial(_leave_signals_to_the_main_process, leaving),
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator().manual_seed(0),
        )
        with shielded(), _children_end_quietly():
            return iter(loader)

    def _describe(self, worker: int, exitcode: int, board: "_Board") -> str:
        reason = signal.Signals(-exitcode).name if exitcode < 0 else f"exit status {exitcode}"
        reason += _MEANS.get(-exitcode, "")
        position = board[worker]
        where = "between two samples" if position is None else f"at the sample {'/'.join(self.dataset.name(position))}"
        return f"A data worker has died {where} ({reason})"


_MEANS = {
    signal.SIGKILL: ", as the system does when memory runs out",
    signal.SIGBUS: ", often for want of room in /dev/shm",
    signal.SIGSEGV: ", a crash inside a decoder",
}
_ADVICE = (
    "If it is the sample, repair it or take it out; if memory runs out, lower data.workers. With data.workers=0 the "
    "error shows in the main process"
)


class _Board:
    """What each worker reads, in memory that all processes share."""

    def __init__(self, workers: int):
        self.cells = RawArray("q", [-1] * (2 * workers))

    def __getitem__(self, worker: int) -> Position | None:
        kind, position = self.cells[2 * worker : 2 * worker + 2]
        if position < 0:
            return None
        return position if kind < 0 else (kind, position)

    def __setitem__(self, worker: int, position: Position | None) -> None:
        pair = position if isinstance(position, tuple) else (-1, -1 if position is None else position)
        self.cells[2 * worker : 2 * worker + 2] = pair


class _Watched(Dataset):
    """Notes on the board which sample a worker reads."""

    def __init__(self, dataset: SampleDataset, board: _Board):
        self.dataset, self.board = dataset, board

    def __getitem__(self, position: Position | list[Position]) -> Draw | UserError | list[Draw | UserError]:
        if isinstance(position, list):
            return [self[one] for one in position]
        worker = get_worker_info().id
        self.board[worker] = position
        draw = self.dataset[position]
        self.board[worker] = None
        return draw


def _death(iterator: Any, seconds: float = 1.0) -> tuple[int, int] | None:
    """Which worker of a torch loader has died, and its exit code; where a pipe broke, it may be just about to."""
    for place, process in enumerate(getattr(iterator, "_workers", ())):
        process.join(0 if process.exitcode is not None else seconds / len(iterator._workers))
        if process.exitcode:
            return place, process.exitcode
    return None


@contextmanager
def _children_end_quietly() -> Iterator[None]:
    """Torch raises an error wherever the process happens to be when a worker dies, and be it in the middle of an
    update. Without its handler, the next read notices."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before if before is not None else signal.SIG_DFL)


def _leave_signals_to_the_main_process(leaving: Event, worker: int) -> None:
    """Ctrl-C and schedulers signal the whole group: the main process finishes its step, and needs its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0) if leaving.is_set() else None)
