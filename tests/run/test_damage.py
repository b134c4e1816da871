"""Damaged data at run time: the same decisions on every rank, and over a resume."""

import io
import json
import os
import tarfile

import pytest
from lightning import Callback
from PIL import Image

from emu2_lit.errors import UserError
from emu2_lit.run import fit
from emu2_lit.run.compare import compare_runs
from tests.distributed import run_ranks
from tests.run.resume_cases import SignalAt, assert_identical, final_state, fit_with, quiet

SAMPLES = 16  # of the tar; 48 draws see it three times


@pytest.fixture
def shard(tmp_path):
    """A tar of which sample 2 has a torn picture, 5 none at all, and that ends within the last one."""
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w") as archive:
        for number in range(SAMPLES + 1):
            picture = io.BytesIO()
            Image.linear_gradient("L").rotate(number).convert("RGB").save(picture, "jpeg")
            turns = [{"from": "human", "value": "<image>\nhow far?"}, {"from": "gpt", "value": f"{number} degrees"}]
            members = {"jpg": picture.getvalue(), "json": json.dumps({"conversations": turns}).encode()}
            if number == 2:
                members["jpg"] = members["jpg"][:400]
            if number == 5:
                del members["jpg"]
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{number:02}.{suffix}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size - 10240 - 600)
    return path


def damaged(folder, base, shard, *overrides, budget=0.9):
    return quiet(
        folder, base, "tuning.lora.dropout=0.0", f"data.sources=[{{path: {shard}, name: shard}}]",
        f"data.bad_budget={budget}", *overrides,
    )  # fmt: skip


def ledger(run):
    """What was skipped; ranks write their parts of a step one after the other."""
    entries = [json.loads(line) for line in (run / "data_ledger.jsonl").read_text().splitlines()]
    return sorted(entries, key=lambda entry: (entry["step"], entry["position"]))


def rank_fit(recipe, step):
    return fit_with(recipe, *([SignalAt(step)] if step else [])).summary


def test_ranks_and_resumes_skip_alike(tmp_path, caption_model, shard):
    straight = fit(damaged(tmp_path / "straight", caption_model, shard, "data.workers=2"))
    two = ("trainer.devices=2", "trainer.strategy=ddp", "data.micro_batch_size=2")
    run_ranks(rank_fit, 2, damaged(tmp_path / "two", caption_model, shard, *two), 3)
    run_ranks(rank_fit, 2, damaged(tmp_path / "two", caption_model, shard, *two), None)
    entries = ledger(straight.directory)
    assert ledger(tmp_path / "two" / "run") == entries
    assert {(entry["id"], entry["index"]) for entry in entries} == {("02", 2), ("05", 5), ("(end of tar)", SAMPLES)}
    assert len(entries) > 3 and straight.summary["skipped_samples"] == 3  # each once, whatever epochs have seen it
    told = " ".join(entry["reason"] for entry in entries)
    assert "truncated" in told and "<image>" in told and f"{shard} is damaged" in told
    same, told = compare_runs(straight.directory, tmp_path / "two" / "run")
    assert same, told


def test_a_stopped_run_goes_on_bit_by_bit(tmp_path, caption_model, shard):
    straight = fit(damaged(tmp_path / "straight", caption_model, shard))
    recipe = damaged(tmp_path / "other", caption_model, shard)
    assert fit_with(recipe, SignalAt(2, 1)).status == "interrupted"
    assert_identical(final_state(straight.directory), final_state(fit(recipe).directory))
    assert ledger(straight.directory) == ledger(tmp_path / "other" / "run")


class Notes(Callback):
    """The steps that were completed."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.step = trainer.global_step


def over_budget(recipe, *callbacks):
    notes = Notes()
    with pytest.raises(UserError) as caught:
        fit_with(recipe, notes, *callbacks)
    return notes.step, str(caught.value)


def test_the_budget_remembers_over_a_resume(tmp_path, caption_model, shard):
    """Seventeen samples with three bad: too many for a tenth, but only once all three have been seen."""
    straight = over_budget(damaged(tmp_path / "straight", caption_model, shard, budget=0.1))
    recipe = damaged(tmp_path / "other", caption_model, shard, budget=0.1)
    assert fit_with(recipe, SignalAt(0, 0)).status == "interrupted"
    assert straight[0] >= 1 and over_budget(recipe) == straight
    assert "data source shard: 3 of the 1" in straight[1]
    two = ("trainer.devices=2", "trainer.strategy=ddp", "data.micro_batch_size=2")
    ranks = run_ranks(over_budget, 2, damaged(tmp_path / "two", caption_model, shard, *two, budget=0.1))
    assert ranks == [straight] * 2


class Rewrite(Callback):
    """Another program writes to the shard: same size, same names, another picture."""

    def __init__(self, path, step):
        self.path, self.step = path, step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if (batch["window"]["step"], batch["window"]["micro_batch"]) == (self.step, 0):
            with open(self.path, "r+b") as file:
                file.seek(1 << 13)
                file.write(b"\0" * 64)
            os.utime(self.path, ns=(0, 0))


def test_a_shard_that_changes_under_the_run(tmp_path, caption_model, shard):
    """In its second epoch."""
    recipe = damaged(tmp_path, caption_model, shard, budget=0.3)
    step, told = over_budget(recipe, Rewrite(shard, 3))
    assert step >= 4 and "data source shard" in told
    assert f"{shard} has changed since this run began to read it" in told
