import multiprocessing
import os
import pickle
import time

import pytest
import torch
import torch.distributed as dist

from datamodules.budget import Budget, Skipped
from datamodules.collate import Collator, Draw, target_counts
from datamodules.dataset import SampleDataset
from datamodules.loader import WindowLoader
from datamodules.order import GlobalOrder
from datamodules.sources import open_sources
from datamodules.split import Split
from emu2_lit.errors import UserError
from emu2_lit.samples.encoding import Encoded
from emu2_lit.settings import SourceSettings
from tests.distributed import run_ranks

TENSORS = ("input_ids", "attention_mask", "labels", "visual_targets_mask", "pixel_values")


def make_loader(processor, settings, split, consumed=0, step=0, steps=4, workers=0, share=0.5, weights=None):
    sources = open_sources(settings)
    order = GlobalOrder([len(source) for source in sources], weights, seed=3)
    dataset = SampleDataset(sources, order, processor, max_length=512)
    budget = Budget(share, {source.name: len(source) for source in sources})
    tokenizer = processor.tokenizer
    collate = Collator(tokenizer.bos_id, tokenizer.pad_id)
    return WindowLoader(dataset, collate, split, steps, lambda: (step, [consumed]), budget, workers)


def assert_same(left, right):
    assert [batch["sample_ids"] for batch in left] == [batch["sample_ids"] for batch in right]
    for a, b in zip(left, right, strict=True):
        assert a["window"] == b["window"] and a["skipped"] == b["skipped"]
        for name in TENSORS:
            assert torch.equal(a[name], b[name]), name


@pytest.fixture
def settings(chat_file):
    return [
        SourceSettings(chat_file("a.json", 11), name="a"),
        SourceSettings(chat_file("b.json", 6, {2}), name="b"),
    ]


def test_batches_are_padded_on_the_right(processor, settings):
    batch = next(iter(make_loader(processor, settings, Split(4))))
    assert batch["pixel_values"].shape[0] == 4 - len(batch["skipped"])
    for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
        length = int(mask.sum())
        assert mask.tolist() == [1] * length + [0] * (len(ids) - length)
        assert ids[0] == processor.tokenizer.bos_id
        assert (ids[length:] == processor.tokenizer.pad_id).all() and (labels[length:] == -100).all()


def test_window_counts_are_those_of_the_whole_step(processor, settings):
    loader = make_loader(processor, settings, Split(2, accumulation=3))
    batches = list(loader)
    assert len(batches) == len(loader) == 12
    for step in range(4):
        window = batches[step * 3 : step * 3 + 3]
        expected = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in window)
        assert [batch["window"] for batch in window] == [
            {
                "text_targets": expected,
                "visual_targets": 0,
                "micro_batches": 3,
                "step": step,
                "micro_batch": place,
                "type": None,
            }
            for place in range(3)
        ]


def test_visual_targets_are_counted():
    collate = Collator(bos_id=1, pad_id=0)
    mask = torch.tensor([False, False, True, True, False])
    ids = torch.arange(5)
    labels = torch.tensor([-100, 1, -100, -100, 4])
    item = Encoded(ids, labels, mask, None, None, "x", "a")
    assert target_counts(collate([Draw("a", 0, item), Draw("a", 0, item)])) == (4, 4)


def test_workers_change_nothing(processor, settings):
    split = Split(2, accumulation=2)
    alone = list(make_loader(processor, settings, split))
    assert_same(alone, list(make_loader(processor, settings, split, workers=2)))


def test_iterating_leaves_the_random_generator_alone(processor, settings):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(make_loader(processor, settings, Split(4)))
    assert torch.equal(before, torch.get_rng_state())


def test_a_resumed_loader_gives_the_same_stream(processor, settings):
    split = Split(2, accumulation=2)
    whole = list(make_loader(processor, settings, split, steps=6))
    for step in (1, 4, 5):
        rest = list(make_loader(processor, settings, split, consumed=4 * step, step=step, steps=6))
        assert_same(whole[2 * step :], rest)


def test_every_split_gives_a_step_the_same_samples(processor, settings):
    expected = None
    for micro, accumulation, world in [(8, 1, 1), (1, 8, 1), (2, 2, 2), (2, 1, 4)]:
        steps = [set() for _ in range(4)]
        for rank in range(world):
            for batch in make_loader(processor, settings, Split(micro, accumulation, world, rank)):
                skipped = {(entry["source"], entry["id"]) for entry in batch["skipped"]}
                seen = set(zip(batch["sources"], batch["sample_ids"], strict=True))
                steps[batch["window"]["step"]] |= seen | skipped
        expected = expected or steps
        assert steps == expected


def test_a_bad_sample_keeps_its_slot(processor, settings, chat_file):
    good = list(make_loader(processor, settings, Split(2), steps=9))
    chat_file("a.json", 11, broken={4})
    bad = list(make_loader(processor, settings, Split(2), steps=9))
    assert [batch["sample_ids"] for batch in bad] == [batch["sample_ids"] for batch in good]
    entries = [entry for batch in bad for entry in batch["skipped"] if entry["source"] == "a"]
    assert [entry["id"] for entry in entries] == ["s4"] * len(entries) and entries
    rows = [
        (batch["input_ids"][row][batch["attention_mask"][row] == 1].tolist(), batch["labels"][row])
        for batch in bad
        for row, id in enumerate(batch["sample_ids"])
        if (batch["sources"][row], id) == ("a", "s4")
    ]
    assert len(rows) == len(entries)
    for ids, labels in rows:
        assert ids == [processor.tokenizer.bos_id] and (labels == -100).all()


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_bad_samples_end_the_run_with_one_message(processor, chat_file, workers):
    settings = [SourceSettings(chat_file("a.json", 20, range(0, 20, 2)), name="mine")]
    loader = make_loader(processor, settings, Split(4), share=0.05, steps=10, workers=workers)
    with pytest.raises(UserError) as caught:
        list(loader)
    message = str(caught.value)
    assert message.startswith("data source mine: ") and "missing.png" in message and "Traceback" not in message


def test_a_user_error_in_a_worker_arrives_as_it_was(processor, settings):
    loader = make_loader(processor, settings, Split(2), workers=1)
    loader.dataset.processor = NeedsAnExtra()
    with pytest.raises(UserError) as caught:
        list(loader)
    assert str(caught.value) == "install the extra"


class NeedsAnExtra:
    def encode_segments(self, segments):
        raise UserError("install the extra")


def test_workers_that_still_wait_do_not_keep_the_process_alive(processor, settings):
    loader = make_loader(processor, settings, Split(2), workers=2)
    process = multiprocessing.get_context("fork").Process(target=_leaves_workers_behind, args=(loader,))
    process.start()
    process.join(60)
    ended = process.exitcode == 0
    process.kill()
    assert ended


def _leaves_workers_behind(loader):
    batches = iter(loader)
    next(batches)
    _kept.append(batches)


_kept = []


def test_dataset_travels_to_spawned_workers(processor, settings):
    dataset = make_loader(processor, settings, Split(2)).dataset
    again = pickle.loads(pickle.dumps(dataset))[5].item
    assert torch.equal(again.input_ids, dataset[5].item.input_ids)


def rank_windows(processor, settings):
    """On each rank: all windows, own target counts, and the error of a run over its budget."""
    dist.init_process_group("gloo")
    split = Split(2, 2, world_size=2, rank=dist.get_rank())
    batches = list(make_loader(processor, settings, split))
    loader = make_loader(processor, settings, split, share=0.001)
    loader.budget.bad["b"].update({100, 101})
    with pytest.raises(UserError) as caught:
        list(loader)
    dist.destroy_process_group()
    own = [int((batch["labels"] != -100).sum()) for batch in batches]
    return [batch["window"] for batch in batches], own, str(caught.value)


def test_ranks_agree_on_counts_and_on_the_budget(processor, settings):
    (windows, own_0, message_0), (windows_1, own_1, message_1) = run_ranks(rank_windows, 2, processor, settings)
    assert windows == windows_1
    alone = [batch["window"] for batch in make_loader(processor, settings, Split(4, 2))]
    assert [w["text_targets"] for w in windows] == [w["text_targets"] for w in alone]
    for step in range(4):
        both = own_0[2 * step : 2 * step + 2] + own_1[2 * step : 2 * step + 2]
        assert windows[2 * step]["text_targets"] == sum(both)
    assert message_0 == message_1 and "data source b" in message_0 and "missing.png" in message_0


def test_empty_positions_are_not_reported():
    batch = Collator(bos_id=1, pad_id=0)([Draw("", 0, None), Draw("a", 2, Skipped("a", "x", "bad", 7, 2, 3))])
    assert batch["input_ids"].tolist() == [[1], [1]]
    assert batch["skipped"] == [{"source": "a", "id": "x", "reason": "bad", "position": 7, "epoch": 2, "index": 3}]
    assert "pixel_values" not in batch


class Watched(SampleDataset):
    """Notes how many samples were made, and that none was in this process."""

    made, here = multiprocessing.Value("i", 0), os.getpid()

    def __getitem__(self, position):
        assert os.getpid() != self.here
        with self.made.get_lock():
            self.made.value += 1
        return super().__getitem__(position)


def test_workers_read_and_decode_no_further_than_their_queue(processor, settings):
    loader = make_loader(processor, settings, Split(1), steps=20, workers=1)
    loader.dataset.__class__ = Watched
    batches = iter(loader)
    next(batches)
    seen = -1
    while seen != Watched.made.value:  # until the workers wait
        seen = Watched.made.value
        time.sleep(0.5)
    assert 1 < seen <= 3  # the one that was taken, and two of a worker's queue
    assert 1 + sum(1 for _ in batches) == Watched.made.value == 20
