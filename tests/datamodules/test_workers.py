"""Data workers that die: told with their sample, started again, and no batch lost."""

import os
import signal
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from datamodules.collate import Collator
from datamodules.dataset import SampleDataset
from datamodules.order import GlobalOrder, TypedOrder
from datamodules.sources import open_sources
from datamodules.workers import Batches
from emu2_lit.errors import UserError
from emu2_lit.settings import SourceSettings

BATCHES = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]


class Deadly(SampleDataset):
    """Kills its process at a position, as often as there are files to take away."""

    def __getitem__(self, position):
        if position == self.deadly and (lives := sorted(self.folder.glob("life*"))):
            lives[0].unlink()
            os.kill(os.getpid(), self.signal)
        return super().__getitem__(position)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Torch looks after its workers when it has waited for five seconds; here sooner."""
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))
    monkeypatch.setattr(signal_handling, "_SIGCHLD_handler_set", False)  # as in a process without loaders before
    before = signal.getsignal(signal.SIGCHLD)
    yield
    signal.signal(signal.SIGCHLD, before)


@pytest.fixture
def make(processor, chat_file, tmp_path):
    """Batches over 11 samples of which `position` kills its reader `lives` times."""

    def make(position=None, lives=0, batches=BATCHES, workers=2, signal=signal.SIGKILL, typed=False):
        sources = open_sources([SourceSettings(chat_file("a.json", 11), name="mine")])
        order = GlobalOrder([len(source) for source in sources], None, seed=3)
        dataset = Deadly(sources, TypedOrder([[0]], [order]) if typed else order, processor, 512)
        dataset.deadly, dataset.folder, dataset.signal = position, tmp_path, signal
        for life in range(lives):
            (tmp_path / f"life{life}").touch()
        return Batches(dataset, batches, Collator(1, 0), workers)

    return make


def assert_same(left, right):
    assert [batch["sample_ids"] for batch in left] == [batch["sample_ids"] for batch in right]
    for a, b in zip(left, right, strict=True):
        assert torch.equal(a["input_ids"], b["input_ids"]) and torch.equal(a["pixel_values"], b["pixel_values"])


@pytest.mark.parametrize("position", [0, 5, 9])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_dead_worker_is_told_and_started_again(make, caplog, position, workers):
    whole = list(make(workers=0))
    batches = make(position, lives=1, workers=workers)
    assert_same(whole, list(batches))
    id = whole[position // 2]["sample_ids"][position % 2]
    assert [record.getMessage() for record in caplog.records] == [
        f"A data worker has died at the sample mine/{id} (SIGKILL, as the system does when memory runs out); "
        "it is started again, and no sample is lost"
    ]


def test_positions_of_types_are_named_too(make, caplog):
    typed = [[(0, position) for position in batch] for batch in BATCHES]
    batches = make((0, 5), lives=1, batches=typed, signal=signal.SIGSEGV, typed=True)
    whole = list(batches)
    assert_same(whole, list(make(workers=0, batches=typed, typed=True)))
    assert f"mine/{whole[2]['sample_ids'][1]} (SIGSEGV, a crash inside a decoder)" in caplog.text


@pytest.mark.parametrize("position", [0, 5])
def test_a_sample_that_kills_twice_ends_the_run(make, position):
    batches, given = make(position, lives=2), []
    with pytest.raises(UserError, match=r"the sample mine/s\d+ \(SIGKILL.*has done so before.*data.workers"):
        for batch in batches:
            given.append(batch)
    assert_same(given, list(make(workers=0, batches=BATCHES[: len(given)])))
    assert len(given) <= position // 2


def kill(processes):
    """Kill them, and let Python run its handlers, which it does between instructions."""
    for process in processes:
        os.kill(process, signal.SIGKILL)
        os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
    sum(range(100_000))


def children() -> set[int]:
    """Process ids of what this process has started."""
    tasks = Path(f"/proc/{os.getpid()}/task")
    return {int(pid) for task in tasks.iterdir() for pid in (task / "children").read_text().split()}


def test_deaths_are_noticed_where_batches_are_read(make, caplog):
    before, source = children(), iter(make())
    first = next(source)
    kill(children() - before)
    assert_same([first, *source], list(make(workers=0)))
    assert "A data worker has died" in caplog.text


def test_torch_alone_raises_in_the_middle_of_a_step(make):
    """What the test above guards against is real."""
    before = children()
    loader = DataLoader(make().dataset, batch_sampler=BATCHES, collate_fn=Collator(1, 0), num_workers=1)
    source = iter(loader)
    next(source)
    with pytest.raises(RuntimeError, match="killed by signal"):
        kill(children() - before)
