"""Samples that share rows: which do, what a row holds, and that nothing but the order and the lengths decides it."""

import json
from itertools import islice

import numpy as np
import pytest
import torch

from datamodules.budget import Budget, Skipped
from datamodules.chat import ChatDataModule
from datamodules.collate import Collator
from datamodules.dataset import SampleDataset
from datamodules.lengths import check_alike, digest_of, lengths_of
from datamodules.loader import WindowLoader
from datamodules.order import GlobalOrder
from datamodules.packing import PackedOrder, pack
from datamodules.sources import Source, open_sources
from datamodules.split import Split
from emu2_lit.errors import UserError
from emu2_lit.settings import GenerationSettings, SourceSettings, TypeSettings
from tests.datamodules.test_loader import assert_same

CAPACITY = 400


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def settings(chat_file, tmp_path):
    """Conversations of 1 to 4 turns with a picture, where one is missing, and short ones."""
    path = chat_file("a.json", 23, {4})
    records = json.loads(open(path).read())
    for place, record in enumerate(records):
        for turn in range(place % 4):
            record["conversations"] += [
                {"from": "human", "value": f"and the one after {turn}?"}, {"from": "gpt", "value": "eight " * place},
            ]  # fmt: skip
    open(path, "w").write(json.dumps(records))
    return [SourceSettings(path, name="a"), SourceSettings(chat_file("b.json", 9), name="b")]


def plan(settings, processor, weights=None, seed=3):
    sources = open_sources(settings)
    order = GlobalOrder([len(source) for source in sources], weights, seed)
    lengths = [lengths_of(source, processor, CAPACITY) for source in sources]
    return sources, order, lengths, PackedOrder(order, lengths, CAPACITY, seed)


def make_loader(processor, settings, split, consumed=0, step=0, steps=4, workers=0, weights=None):
    sources, order, lengths, packed = plan(settings, processor, weights)
    dataset = SampleDataset(sources, order, processor, CAPACITY, lengths=lengths)
    budget = Budget(0.5, {source.name: len(source) for source in sources})
    collate = Collator(processor.tokenizer.bos_id, processor.tokenizer.pad_id, digests=True)
    return WindowLoader(dataset, collate, split, steps, lambda: (step, [consumed]), budget, workers, packed)


# -- what shares a row ---------------------------------------------------------------------------------------
def test_every_place_is_packed_once_and_rows_hold_what_fits():
    lengths = np.random.default_rng(0).integers(20, 900, 1000).tolist()
    rows = pack(lengths, 2048)
    assert sorted(place for row in rows for place in row) == list(range(1000))
    used = [sum(lengths[place] for place in row) for row in rows]
    assert max(used) <= 2048 and sum(used) / (2048 * len(rows)) > 0.99
    assert len(pack([2048] * 5, 2048)) == 5 and pack([1, 2047, 1], 2048) == [[0, 1], [2]]


@pytest.mark.parametrize("weights", [None, [2, 1]])
def test_rows_hold_the_order_window_by_window(settings, processor, weights):
    *_, packed = plan(settings, processor, weights)
    assert packed.window == 32  # all samples: a window is no longer than a pass
    rows = [packed(row) for row in range(60)]
    for number in range(2):
        size = packed.rows_of((number + 1) * 32) - packed.rows_of(number * 32)
        window, rows = rows[:size], rows[size:]
        assert sorted(position for row in window for position in row) == list(range(number * 32, number * 32 + 32))
    assert rows[0] == packed(packed.rows_of(64)), "asked in any order, the same"


def test_another_seed_packs_otherwise(settings, processor):
    one, other = (plan(settings, processor, seed=seed)[-1] for seed in (1, 2))
    assert [one(row) for row in range(9)] != [other(row) for row in range(9)]


def test_next_to_nothing_is_padding():
    lengths = [np.random.default_rng(0).integers(20, 900, 50_000)]
    packed = PackedOrder(GlobalOrder([50_000]), lengths, 2048)
    assert 50_000 * 460 / 2048 / packed.rows_of(50_000) > 0.99


# -- lengths -------------------------------------------------------------------------------------------------
def test_lengths_are_those_of_encoded_samples_and_measured_once(settings, processor, tmp_path):
    sources, order, lengths, _ = plan(settings, processor)
    dataset = SampleDataset(sources, order, processor, CAPACITY)
    for position in range(32):
        item, (source, index, _) = dataset[position].item, order(position)
        assert isinstance(item, Skipped) or len(item.input_ids) == lengths[source][index]
    assert lengths[0].max() <= CAPACITY
    kept = list((tmp_path / "cache" / "emu2_lit" / "lengths").iterdir())
    assert len(kept) == 2
    for file in kept:
        np.savez(file, lengths=np.arange(23))
    assert [column.tolist() for column in plan(settings, processor)[2]] == [list(range(23))] * 2
    for file in kept:
        file.write_bytes(b"damaged")
    assert digest_of(plan(settings, processor)[2], CAPACITY) == digest_of(lengths, CAPACITY)


def test_what_cannot_be_imported_keeps_a_place_and_documents_have_a_row(tmp_path, processor):
    records = [{"id": "bad", "conversations": []}, {"id": "document", "texts": ["a text", "b"], "images": [None, None]}]
    (tmp_path / "mixed.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n{broken\n")
    assert lengths_of(Source(SourceSettings(str(tmp_path / "mixed.jsonl"))), processor, 99).tolist() == [1, 99, 1]


def test_a_sample_that_has_grown_is_skipped(settings, processor):
    sources, order, lengths, _ = plan(settings, processor)
    dataset = SampleDataset(sources, order, processor, CAPACITY, lengths=[column - 1 for column in lengths])
    assert "when it was measured" in dataset[0].item.reason


# -- batches -------------------------------------------------------------------------------------------------
def test_a_row_is_its_samples_one_behind_the_other(settings, processor):
    sources, order, _, packed = plan(settings, processor)
    dataset = SampleDataset(sources, order, processor, CAPACITY)
    batch = next(iter(make_loader(processor, settings, Split(3))))
    alone = Collator(1, processor.tokenizer.pad_id, digests=True)([dataset[one] for one in batch["positions"]])
    for name in ("sample_ids", "sources", "epochs", "positions", "digests", "skipped"):
        assert batch[name] == alone[name], name
    assert torch.equal(batch["pixel_values"], alone["pixel_values"])
    for name in ("input_ids", "labels"):
        assert torch.equal(batch[name][batch["segment_ids"] > 0], alone[name][alone["attention_mask"] > 0]), name
    assert torch.equal(batch["attention_mask"], (batch["segment_ids"] > 0).long())
    for row in range(3):
        samples = [alone["attention_mask"][batch["positions"].index(one)].sum() for one in packed(row)]
        found = batch["segment_ids"][row].bincount(minlength=len(samples) + 1)[1:]
        assert found.tolist() == [int(one) for one in samples]
    firsts = batch["segment_ids"].diff(dim=1, prepend=torch.zeros(3, 1, dtype=torch.int64)) > 0
    assert (batch["input_ids"][firsts] == processor.tokenizer.bos_id).all() and (batch["labels"][firsts] == -100).all()


@pytest.mark.parametrize("weights", [None, [2, 1]])
def test_workers_and_resuming_change_nothing(settings, processor, weights):
    split = Split(1, accumulation=2)
    whole = list(make_loader(processor, settings, split, steps=9, weights=weights))
    assert_same(whole, list(make_loader(processor, settings, split, steps=9, weights=weights, workers=2)))
    for step in (1, 6):
        rest = make_loader(processor, settings, split, consumed=2 * step, step=step, steps=9, weights=weights)
        assert_same(whole[2 * step :], list(rest))


def test_every_split_gives_a_step_the_same_rows(settings, processor):
    expected = None
    for micro, accumulation, world in [(4, 1, 1), (1, 4, 1), (1, 2, 2), (2, 1, 2)]:
        steps = [[] for _ in range(4)]
        for rank in range(world):
            for batch in make_loader(processor, settings, Split(micro, accumulation, world, rank)):
                steps[batch["window"]["step"]] += zip(batch["positions"], batch["digests"], strict=True)
        expected = expected or [sorted(step) for step in steps]
        assert [sorted(step) for step in steps] == expected


def test_a_damaged_sample_moves_nobody(settings, processor, chat_file, tmp_path):
    def seen():
        return [batch["positions"] for batch in make_loader(processor, settings, Split(2))]

    before = seen()
    (tmp_path / "a.png").write_bytes(b"no picture")
    loader = make_loader(processor, settings, Split(2))
    loader.budget.share = 1.0
    batches = list(loader)
    assert [batch["positions"] for batch in batches] == before
    assert all(len(batch["skipped"]) == len(batch["positions"]) for batch in batches)
    assert (batches[0]["input_ids"][batches[0]["segment_ids"] > 0] == processor.tokenizer.bos_id).all()


# -- the data module -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("other", [
    {"types": [TypeSettings("a", 4)]}, {"learn_pictures": True}, {"generation": GenerationSettings()},
])  # fmt: skip
def test_only_conversations_are_packed(other, settings, processor):
    with pytest.raises(UserError, match="data.packing: only conversations are packed"):
        ChatDataModule(settings, processor, packing=True, **other)


def test_a_pass_is_as_many_rows(settings, processor):
    data = ChatDataModule(settings, processor, packing=True, max_length=CAPACITY)
    first = list(islice(map(data.packed, range(99)), data.pass_length))
    assert sorted(position for row in first for position in row) == list(range(32))
    assert ChatDataModule(settings, processor).pass_length == 32


def test_ranks_that_measured_otherwise_are_refused(settings, processor):
    lengths = plan(settings, processor)[2]
    digests = [digest_of(lengths, CAPACITY), digest_of(lengths, CAPACITY)]
    check_alike(digests)
    lengths[0][5] += 1
    with pytest.raises(UserError, match="make the data alike on all machines"):
        check_alike([*digests, digest_of(lengths, CAPACITY)])


def test_a_checkpoint_of_other_rows_is_refused(settings, processor):
    data = ChatDataModule(settings, processor, packing=True, max_length=CAPACITY)
    state = data._identity() | {"consumed": [3], "budget": {"drawn": {}, "bad": {}, "reasons": {}}}
    data.load_state_dict(state)
    for other in ({"packing": False}, {"max_length": CAPACITY + 1}):
        changed = ChatDataModule(settings, processor, **({"packing": True, "max_length": CAPACITY} | other))
        with pytest.raises(UserError, match=r"other data \(packing: "):
            changed.load_state_dict(state)
