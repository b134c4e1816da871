"""A picture that poisons the loss costs one update, and nothing else, also over a resume."""

import json

import torch
from lightning import Callback

from emu2_lit.run.compare import compare_runs
from tests.run.resume_cases import SignalAt, assert_identical, final_state, fit_with, quiet


class Poison(Callback):
    """Makes every pixel of a micro-batch NaN."""

    def __init__(self, step: int, micro_batch: int):
        self.place = (step, micro_batch)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if (batch["window"]["step"], batch["window"]["micro_batch"]) == self.place:
            batch["pixel_values"] = torch.full(batch["pixel_values"].shape, torch.nan)


def test_a_stop_right_after_a_dropped_update(tmp_path, caption_model):
    straight = fit_with(quiet(tmp_path / "straight", caption_model), Poison(2, 1))
    recipe = quiet(tmp_path / "other", caption_model)
    assert fit_with(recipe, Poison(2, 1), SignalAt(2, 1)).status == "interrupted"
    resumed = fit_with(recipe)
    same, told = compare_runs(straight.directory, resumed.directory)
    assert same, told
    assert_identical(final_state(straight.directory), final_state(resumed.directory))
    assert resumed.summary["skipped_updates"] == 1 and resumed.summary["steps"] == 6
    assert final_state(resumed.directory)["lr_schedulers"][0]["last_epoch"] == 5
    (entry,) = [json.loads(line) for line in (resumed.directory / "faults.jsonl").open()]
    consumed = [json.loads(line) for line in (resumed.directory / "batches" / "rank_0.jsonl").open() if line.strip()]
    third = next(one["batches"] for one in consumed if one.get("step") == 3)
    assert entry["samples"] == [[sample[2], sample[4]] for batch in third for sample in batch]
