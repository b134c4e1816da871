"""Steps that are not finite change nothing, on any rank, and are told."""

import json
import os

import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy

from callbacks import GradientCheck, NonFiniteGuard, StepCheckpoint, find_last_checkpoint
from emu2_lit.errors import UserError
from tests.callbacks.toy import ACCUMULATION, Batches, ToyModule, make_batch, make_trainer
from tests.distributed import run_ranks

STEPS = 6


class Scheduled(ToyModule):
    """With momentum, weight decay and a schedule that falls in every step; `bad` batches make losses that are lost."""

    update_skipped = False

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        if kind := batch.get("bad"):
            loss = loss * float(kind) if kind != "gradient" else loss + _infinite_slope(loss)
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2, weight_decay=0.1)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def lr_scheduler_step(self, scheduler, metric):
        if not self.update_skipped:
            super().lr_scheduler_step(scheduler, metric)


def _infinite_slope(loss):
    """Nothing, with an infinite gradient."""
    return torch.sqrt(loss - loss.detach())


class Chosen(Batches):
    """Some windows of the stream, after the first `done`; `bad` says which micro-batches are lost, and how."""

    def __init__(self, windows, bad=None, done=0):
        super().__init__(len(windows))
        self.windows, self.bad, self.done = list(windows), bad or {}, done

    def __iter__(self):
        for window in self.windows[self.done :]:
            for place in range(window * ACCUMULATION, (window + 1) * ACCUMULATION):
                yield make_batch(place, bad=self.bad.get(place))


def fit(folder, loader, *callbacks, resume=None, steps=None, limit=5, **settings):
    settings |= {"enable_checkpointing": bool(callbacks)}
    module, guard = Scheduled(), NonFiniteGuard(limit, folder / "faults.jsonl")
    trainer = make_trainer(folder, steps or loader.steps, guard, *callbacks, gradient_clip_val=1.0, **settings)
    trainer.fit(module, loader, ckpt_path=resume)
    return trainer, guard


def state(trainer):
    optimizer = trainer.optimizers[0].state_dict()
    return trainer.lightning_module.state_dict(), optimizer, trainer.lr_scheduler_configs[0].scheduler.state_dict()


def assert_same(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def faults(folder):
    return [json.loads(line) for line in (folder / "faults.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", ["nan", "inf", "gradient"])
@pytest.mark.parametrize("place", [5, 0])  # the second micro-batch of the third step; the very first of all
def test_a_bad_step_is_as_if_it_had_not_been(tmp_path, kind, place):
    without = [window for window in range(STEPS) if window != place // ACCUMULATION]
    clean, _ = fit(tmp_path / "clean", Chosen(without))
    guarded, guard = fit(tmp_path / "bad", Chosen(range(STEPS), {place: kind}))
    assert_same(state(clean), state(guarded))
    assert (clean.global_step, guarded.global_step) == (STEPS - 1, STEPS)
    assert guard.totals() == {"skipped_updates": 1}
    (entry,) = faults(tmp_path / "bad")
    window = place - place % ACCUMULATION
    assert entry["step"] == place // ACCUMULATION + 1 and entry["fault"] == "not finite"
    assert entry["samples"] == [["", f"sample {2 * window + i}"] for i in range(4)]


def test_without_the_guard_all_is_lost(tmp_path):
    trainer = make_trainer(tmp_path, STEPS)
    trainer.fit(Scheduled(), Chosen(range(STEPS), {5: "nan"}))
    assert all(tensor.isnan().any() for tensor in trainer.lightning_module.state_dict().values())


def test_resume_right_after_a_dropped_update(tmp_path):
    bad = {5: "nan", 7: "inf"}
    whole, _ = fit(tmp_path / "whole", Chosen(range(STEPS), bad))
    saving = StepCheckpoint(tmp_path / "saved", every_n_steps=1)
    fit(tmp_path / "halves", Chosen(range(STEPS), bad), saving, steps=3)
    resumed, guard = fit(
        tmp_path / "halves", Chosen(range(STEPS), bad, done=3), resume=find_last_checkpoint(saving.folder)
    )
    assert_same(state(whole), state(resumed))
    assert guard.totals() == {"skipped_updates": 2}
    assert [entry["step"] for entry in faults(tmp_path / "halves")] == [3, 4]


def test_too_many_in_a_row_stop_the_run_with_the_weights_intact(tmp_path):
    clean, _ = fit(tmp_path / "clean", Chosen([0, 2]))
    bad = {place: "nan" for place in (2, 6, 8, 10)}
    trainer = make_trainer(tmp_path, STEPS, NonFiniteGuard(3), gradient_clip_val=1.0)
    module = Scheduled()
    with pytest.raises(UserError, match=r"step 6: .*sample 20, sample 21\. 3 update\(s\) in a row.*optimizer.lr"):
        trainer.fit(module, Chosen(range(STEPS), bad))
    assert_same(clean.lightning_module.state_dict(), module.state_dict())


def test_the_count_in_a_row_goes_on_over_a_resume(tmp_path):
    bad, saving = {place: "nan" for place in (4, 6)}, StepCheckpoint(tmp_path / "saved", every_n_steps=1)
    fit(tmp_path, Chosen(range(STEPS), bad), saving, steps=3, limit=2)
    with pytest.raises(UserError, match="step 4: .* 2 update"):
        fit(tmp_path, Chosen(range(STEPS), bad, done=3), resume=find_last_checkpoint(saving.folder), limit=2)


def test_the_gradient_check_bears_a_dropped_update(tmp_path):
    trainer, _ = fit(tmp_path, Chosen(range(STEPS), {0: "nan"}), GradientCheck(4))
    assert trainer.global_step == STEPS


class EngineStrategy(SingleDeviceStrategy):
    """Says, as DeepSpeed does, that it makes the step itself."""

    handles_gradient_accumulation = True


def test_where_the_engine_makes_the_step_the_run_stops(tmp_path):
    trainer = make_trainer(tmp_path, STEPS, NonFiniteGuard(None), strategy=EngineStrategy("cpu"))
    with pytest.raises(UserError, match="step 2: .*the run stops"):
        trainer.fit(Scheduled(), Chosen(range(STEPS), {2: "nan"}))


def rank_run(folder):
    """Only one rank's loss is lost in step 3; the other's is in step 4, in another micro-batch."""
    rank = int(os.environ["RANK"])
    loader = Chosen(range(STEPS), {0: {5: "nan"}, 1: {6: "inf"}}[rank])
    trainer, guard = fit(folder, loader, devices=2, strategy="ddp")
    clean, _ = fit(folder / "clean", Chosen([0, 1, 4, 5]), devices=2, strategy="ddp")
    assert_same(state(clean), state(trainer))
    return guard.totals(), trainer.global_step


def test_one_bad_rank_holds_all(tmp_path):
    assert run_ranks(rank_run, 2, tmp_path) == [({"skipped_updates": 2}, STEPS)] * 2
    assert [(entry["step"], len(entry["samples"])) for entry in faults(tmp_path)] == [(3, 8), (4, 8)]
