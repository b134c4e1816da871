import json
import os

from callbacks import DataLedger
from tests.callbacks.toy import ACCUMULATION, Batches, ToyModule, make_trainer
from tests.distributed import run_ranks


def skipped(place: int, source: str = "chat") -> list[dict]:
    """One bad sample in the second micro-batch of every step."""
    if place % ACCUMULATION == 0:
        return []
    return [dict(source=source, id=f"bad {place}", reason="truncated image", position=place)]


def read(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "data_ledger.jsonl").read_text().splitlines()]


def fit(folder, steps: int, loader, *validation, resume=None, **settings):
    trainer = make_trainer(folder, steps, DataLedger(folder / "data_ledger.jsonl"), **settings)
    trainer.fit(ToyModule(), loader, *validation, ckpt_path=resume)
    return trainer


def test_every_skipped_sample_is_written_with_its_reason_and_step(tmp_path):
    fit(tmp_path, 3, Batches(3, skipped=skipped))
    entries = read(tmp_path)
    assert [(entry["step"], entry["id"]) for entry in entries] == [(1, "bad 1"), (2, "bad 3"), (3, "bad 5")]
    assert entries[0] == dict(step=1, source="chat", id="bad 1", reason="truncated image", position=1)


def test_a_clean_run_leaves_no_file(tmp_path):
    fit(tmp_path, 2, Batches(2))
    assert not (tmp_path / "data_ledger.jsonl").exists()


def test_what_came_after_the_checkpoint_is_not_written_twice(tmp_path):
    trainer = fit(tmp_path, 2, Batches(2, skipped=skipped))
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    fit(tmp_path, 4, Batches(4, skipped=skipped))  # a run that went on and was lost
    assert len(read(tmp_path)) == 4
    fit(tmp_path, 4, Batches(4, skipped=skipped), resume=tmp_path / "two.ckpt")
    assert [entry["step"] for entry in read(tmp_path)] == [1, 2, 3, 4]


def test_a_line_cut_off_by_a_crash_is_dropped(tmp_path):
    path = tmp_path / "data_ledger.jsonl"
    path.write_text('{"step": 0, "source": "chat", "id": "x", "reason": "r", "position": 0}\n{"step": 0, "sou')
    fit(tmp_path, 1, Batches(1, skipped=skipped))
    assert [entry["id"] for entry in read(tmp_path)] == ["x", "bad 1"]


def test_a_bad_validation_sample_is_written_once(tmp_path):
    validation = Batches(1, skipped=lambda place: skipped(place, source="held out"))
    fit(tmp_path, 3, Batches(3), validation, val_check_interval=ACCUMULATION)
    assert [(entry["split"], entry["source"], entry["step"]) for entry in read(tmp_path)] == [
        ("validation", "held out", 1)
    ]


def fit_a_rank(folder) -> None:
    rank = os.environ["RANK"]
    loader = Batches(2, skipped=lambda place: skipped(place, source=f"rank {rank}"))
    fit(folder, 2, loader, devices=2, strategy="ddp")


def test_the_first_rank_writes_for_all(tmp_path):
    run_ranks(fit_a_rank, 2, tmp_path)
    assert [(e["step"], e["source"]) for e in read(tmp_path)] == [
        (1, "rank 0"), (1, "rank 1"), (2, "rank 0"), (2, "rank 1")
    ]  # fmt: skip
