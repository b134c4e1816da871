"""Data types: steps of one type or of all, each with its own batch size, on any number of ranks."""

import lightning
import pytest
import torch

from datamodules.chat import ChatDataModule
from datamodules.types import check_types, typed_split
from emu2_lit.errors import UserError
from emu2_lit.settings import SourceSettings, TypeSettings
from tests.datamodules.test_chat import Recorder

TYPES = [TypeSettings("pairs", 8, weight=2.0), TypeSettings("documents", 4), TypeSettings("text", 2)]


def test_one_type_a_step_in_the_proportion_of_the_weights():
    split = typed_split(TYPES, "alternate", micro_batch_size=4, world_size=1)
    names = [split.type_of(step) for step in range(40)]
    assert names[:4] == names[4:8] and [names.count(kind.name) for kind in TYPES] == [20, 10, 10]
    for step in range(8):
        batches = split.step(step, [0, 0, 0])
        assert len(batches) == split.accumulation == 2
        assert sum(map(len, batches)) == {kind.name: kind.batch_size for kind in TYPES}[split.type_of(step)]


def test_every_type_in_every_step():
    split = typed_split(TYPES, "together", micro_batch_size=4, world_size=1)
    batches = split.step(3, [80, 40, 20])
    assert split.type_of(3) is None and len(batches) == split.accumulation == 2 + 1 + 1
    assert [len({kind for kind, _ in batch}) for batch in batches] == [1, 1, 1, 1]
    assert sorted(key for batch in batches for key in batch) == [
        *((0, 80 + i) for i in range(8)), *((1, 40 + i) for i in range(4)), *((2, 20 + i) for i in range(2)),
    ]  # fmt: skip


@pytest.mark.parametrize("mixing", ["alternate", "together"])
def test_ranks_share_the_samples_of_a_step(mixing):
    whole = typed_split(TYPES, mixing, micro_batch_size=4, world_size=1)
    ranks = [typed_split(TYPES, mixing, micro_batch_size=4, world_size=2, rank=rank) for rank in range(2)]
    for step in range(8):
        consumed = whole.drawn(0, step)
        dealt = sorted(key for split in ranks for batch in split.step(step, consumed) for key in batch)
        assert dealt == sorted(key for batch in whole.step(step, consumed) for key in batch)
        assert len({len(split.step(step, consumed)) for split in ranks}) == 1


def test_drawn_counts_what_the_steps_held():
    split = typed_split(TYPES, "alternate", micro_batch_size=8, world_size=1)
    for first, last in [(0, 0), (0, 7), (3, 4), (5, 23)]:
        held = [kind for step in range(first, last) for batch in split.step(step, [0, 0, 0]) for kind, _ in batch]
        assert split.drawn(first, last) == tuple(held.count(kind) for kind in range(3))


def test_a_batch_that_does_not_divide_is_refused():
    types = [TypeSettings("pairs", 6), TypeSettings("text", 5)]
    with pytest.raises(UserError, match="6, 5 cannot be dealt to 2 device"):
        typed_split(types, "alternate", micro_batch_size=8, world_size=2)


@pytest.mark.parametrize(
    ("types", "of_source", "message"),
    [
        (TYPES[:1], None, r"data.sources.0.type: None is not one of pairs"),
        (TYPES[:1], "pears", "pears is not one of pairs"),
        (TYPES[:2], "pairs", "no source has the type documents"),
        ([], "pairs", "is not null, for there are no data.types"),
        ([TypeSettings("pairs", 8, weight=0.0)], "pairs", "the weight of pairs must be positive"),
        (TYPES[:1] * 2, "pairs", "pairs occurs twice"),
    ],
)
def test_types_and_sources_must_fit(types, of_source, message):
    with pytest.raises(UserError, match=message):
        check_types(types, [SourceSettings("a.json", type=of_source)])


@pytest.fixture
def run(processor, chat_file, tmp_path):
    """Fits a Recorder on two types: returns (recorder, trainer, data)."""

    def fit(max_steps, mixing="alternate", checkpoint=None, seed=5):
        sources = [
            SourceSettings(chat_file("a.json", 10), name="a", type="pairs"),
            SourceSettings(chat_file("b.json", 3), name="b", type="pairs"),
            SourceSettings(chat_file("c.json", 7), name="c", type="documents"),
        ]
        types = [TypeSettings("pairs", 4, weight=2.0), TypeSettings("documents", 2)]
        split = typed_split(types, mixing, 2, 1)
        data = ChatDataModule(sources, processor, micro_batch_size=2, seed=seed, types=types, mixing=mixing)
        trainer = lightning.Trainer(
            max_steps=max_steps, accumulate_grad_batches=split.accumulation, accelerator="cpu", logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
            default_root_dir=tmp_path,
        )  # fmt: skip
        recorder = SourceRecorder()
        trainer.fit(recorder, data, ckpt_path=checkpoint, weights_only=False)
        return recorder, trainer, data

    return fit


class SourceRecorder(Recorder):
    """Notes the sources as well."""

    def training_step(self, batch, index):
        loss = super().training_step(batch, index)
        self.trained[-1] = (*self.trained[-1], tuple(batch["sources"]), batch["window"]["type"])
        return loss + torch.zeros(())


@pytest.mark.parametrize("mixing", ["alternate", "together"])
def test_every_type_has_an_order_of_its_own(run, mixing):
    recorder, _, data = run(9, mixing)
    seen = {"pairs": [], "documents": []}
    for _, _, ids, sources, _ in recorder.trained:
        for id, source in zip(ids, sources, strict=True):
            seen["documents" if source == "c" else "pairs"].append((source, id))
    assert len(set(seen["pairs"][:13])) == 13  # every sample once before any comes again
    assert len(set(seen["documents"][:7])) == min(7, len(seen["documents"]))
    assert data.consumed == sum(map(len, seen.values()))


@pytest.mark.parametrize("mixing", ["alternate", "together"])
def test_resume_continues_every_type(run, tmp_path, mixing):
    whole, _, _ = run(9, mixing)
    trained = []
    for number, steps in enumerate((2, 4, 9)):
        recorder, trainer, _ = run(steps, mixing, tmp_path / f"{number - 1}.ckpt" if number else None)
        trainer.save_checkpoint(tmp_path / f"{number}.ckpt")
        trained += recorder.trained
    assert trained == whole.trained
    with pytest.raises(UserError, match="made with other data"):
        run(12, "together" if mixing == "alternate" else "alternate", tmp_path / "2.ckpt")
