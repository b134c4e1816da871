"""Ranks that wait for ever for one that does not come."""

import os
import signal
import sys
import time
from itertools import count

import pytest

from callbacks import StuckWatch
from callbacks.stuck_watch import verdict
from emu2_lit.ranks import all_reduced
from tests.callbacks.toy import Batches, ToyModule, make_trainer
from tests.distributed import free_port, start_child

SECONDS = 1.5


class Sleepy(ToyModule):
    """One rank never comes back from the third step's second micro-batch."""

    def training_step(self, batch, batch_idx):
        if batch_idx == 5 and self.global_rank == 1:
            self.stop_here()
        return super().training_step(batch, batch_idx)

    def stop_here(self):
        for _ in count():
            time.sleep(0.1)


class Frozen(Sleepy):
    def stop_here(self):
        os.kill(os.getpid(), signal.SIGSTOP)


class SleepyBatches(Batches):
    """One rank never gets its sixth micro-batch; the ranks agree on every one, as the kit's loader does."""

    def __iter__(self):
        for place, batch in enumerate(super().__iter__()):
            while place == 5 and os.environ["RANK"] == "1":
                time.sleep(0.1)
            all_reduced([1])
            yield batch


def fit_a_rank(rank, port, folder, module, batches):
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", GROUP_RANK="0",
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="test",
    )  # fmt: skip
    sys.stderr = open(folder / f"rank{rank}.txt", "w")
    make_trainer(folder, 6, StuckWatch(SECONDS), devices=2, strategy="ddp").fit(module(), batches(6))


def run(folder, module=ToyModule, batches=Batches):
    """Exit codes of both ranks, and what the run has told."""
    port = free_port()
    ranks = [start_child(fit_a_rank, rank, port, folder, module, batches) for rank in range(2)]
    ranks[0].join()
    if module is Frozen:
        ranks[1].kill()
    ranks[1].join()
    told = [text for text in ((folder / f"rank{rank}.txt").read_text() for rank in range(2)) if "has moved" in text]
    return [process.exitcode for process in ranks], told


@pytest.mark.parametrize(
    ("module", "batches", "where", "call"),
    [
        (Sleepy, Batches, "in micro-batch 2 of step 3", "in stop_here"),
        (ToyModule, SleepyBatches, "between two micro-batches", "in __iter__"),
    ],
)
def test_the_rank_that_sleeps_is_named(tmp_path, module, batches, where, call):
    exits, (told,) = run(tmp_path, module, batches)
    assert exits == [1, 1]
    assert "the last completed step is 2." in told
    assert f"Rank 1 holds the others up, {where}" in told and call in told
    assert "Rank 0 waits" in told and "callbacks.stuck_after" in told


def test_a_rank_that_stands_still_is_named(tmp_path):
    exits, (told,) = run(tmp_path, Frozen)
    assert exits == [1, -signal.SIGKILL]
    assert "Rank 1 does not answer" in told and "the last completed step is 2." in told


def test_a_run_that_moves_is_left_alone(tmp_path):
    assert run(tmp_path) == ([0, 0], [])


def test_many_ranks_are_told_in_few_lines():
    report = dict(moves=9, step=4, doing="in micro-batch 1 of step 5", waits=True, stack=["a.py:1 in f"])
    reports = {rank: report | {"moves": 8 if rank == 7 else 9} for rank in range(64)}
    told = verdict(reports, 64, 1800)
    assert "Rank 7 holds the others up" in told and "So do 57 more." in told
