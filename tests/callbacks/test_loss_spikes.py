"""Losses that stand out are told and counted, and nothing else happens."""

import json

import pytest

from callbacks import LossSpikes, StepCheckpoint, find_last_checkpoint
from tests.callbacks.toy import ACCUMULATION, Batches, ToyModule, make_trainer

STEPS, SPIKE = 40, 30


class Scripted(ToyModule):
    """Logs losses that fall slowly with some noise, and ten times as much in one step."""

    def training_step(self, batch, batch_idx):
        loss, step = self.loss(batch), self.global_step + 1
        self.log("train/loss", (3 - 0.02 * step + 0.05 * (step % 3)) * (10 if step in self.spikes else 1))
        return loss


def fit(folder, spikes=(SPIKE,), steps=STEPS, resume=None, *callbacks):
    module, watch = Scripted(), LossSpikes(path=folder / "faults.jsonl")
    module.spikes = spikes
    trainer = make_trainer(folder, steps, watch, *callbacks, enable_checkpointing=bool(callbacks))
    trainer.fit(module, Batches(STEPS), ckpt_path=resume)
    return watch


def entries(folder):
    return [json.loads(line) for line in (folder / "faults.jsonl").read_text().splitlines()]


def test_a_spike_is_told_with_its_samples(tmp_path):
    with pytest.warns(UserWarning, match=rf"step {SPIKE}: the loss is .* a spike"):
        assert fit(tmp_path).totals() == {"loss_spikes": 1}
    (entry,) = entries(tmp_path)
    first = 2 * ACCUMULATION * (SPIKE - 1)
    assert entry["step"] == SPIKE and entry["fault"] == "loss spike" and entry["loss"] > 20 > 3 > entry["usual"]
    assert entry["samples"] == [["", f"sample {first + i}"] for i in range(2 * ACCUMULATION)]


def test_an_ordinary_run_has_none_and_the_beginning_is_not_judged(tmp_path):
    assert fit(tmp_path, spikes=(2, 5)).totals() == {"loss_spikes": 0}
    assert not (tmp_path / "faults.jsonl").exists()


def test_spikes_hide_no_spikes(tmp_path):
    spikes = range(SPIKE, SPIKE + 6)
    assert fit(tmp_path, spikes).totals() == {"loss_spikes": len(spikes)}


def test_the_history_goes_on_over_a_resume(tmp_path):
    saving = StepCheckpoint(tmp_path / "saved", every_n_steps=SPIKE - 1)
    fit(tmp_path, (), SPIKE - 1, None, saving)
    assert fit(tmp_path, resume=find_last_checkpoint(saving.folder)).totals() == {"loss_spikes": 1}
