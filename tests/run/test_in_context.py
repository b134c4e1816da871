"""The base that comes with the kit learns in context; tuning that ruins it is caught."""

import json

import pytest
import torch
from lightning import Callback

from emu2_lit.evaluation.benchmarks import open_benchmark
from emu2_lit.evaluation.runner import predict
from emu2_lit.run import fit, load_run
from emu2_lit.run.assemble import build_datamodule, build_module, build_origin, build_trainer
from emu2_lit.weights import PRETRAINED
from tests.run.conftest import short

BASE = PRETRAINED / "tiny-in-context"


@pytest.fixture(scope="module")
def accuracy(episodes):
    """Accuracy over all fixed episodes of unseen classes, by shots."""
    model, processor = load_run(BASE, dtype=torch.float32, device_map={"": "cpu"})
    benchmark = open_benchmark("fast_binding_2way", episodes)
    assert len(benchmark.queries) >= 1000
    found = {shots: predict(model, processor, benchmark, shots, batch_size=64) for shots in (0, 1, 2, 4)}
    return {shots: benchmark.score(benchmark.queries, said)["accuracy"] for shots, said in found.items()}


def test_the_base_learns_names_of_unseen_classes(accuracy):
    assert 0.46 < accuracy[0] < 0.54
    assert accuracy[1] >= 0.75 and accuracy[4] >= 0.90
    assert accuracy[1] < accuracy[4] and accuracy[2] < accuracy[4] + 0.02


def test_the_record_of_the_base_is_what_it_scores(accuracy):
    record = json.loads((BASE / "made_by.json").read_text())
    assert record["accuracy"] == {str(shots): pytest.approx(value, abs=0.01) for shots, value in accuracy.items()}


def test_the_recipe_sets_out_as_recorded(episodes, tmp_path):
    """Its first stage, from random weights: the first steps follow the recorded loss."""
    record = json.loads((BASE / "made_by.json").read_text())["stages"]["pretrain/tiny_caption"]["loss"]
    recipe = short("pretrain/tiny_caption", tmp_path, f"data.folder={episodes.parent}", "data.workers=0")
    origin = build_origin(recipe)
    trainer = build_trainer(recipe)
    trainer.callbacks.append(first := FirstSteps(30))
    trainer.fit(build_module(recipe, origin), build_datamodule(recipe, origin))
    assert first.losses == {step: pytest.approx(record[str(step)], rel=0.02) for step in (10, 20, 30)}


class FirstSteps(Callback):
    """Notes the loss of every tenth step, and ends the run after some."""

    def __init__(self, steps: int):
        self.steps, self.losses = steps, {}

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step % 10 == 0:
            self.losses[trainer.global_step] = float(trainer.callback_metrics["train/loss"])
        trainer.should_stop = trainer.global_step == self.steps


def test_tuning_that_ruins_it_is_stopped(episodes, tmp_path):
    recipe = short(
        "quickstart/in_context", tmp_path, f"data.folder={episodes.parent}", "optimizer.lr=0.3", "trainer.max_steps=12",
        "trainer.val_check_interval=4", "data.workers=0", "evaluation.benchmarks.0.limit=128", "evaluation.shots=[4]",
        "evaluation.stop_below=0.15", "callbacks.gradient_check_steps=0", "data.validation_limit=8",
        "callbacks.keep_best=in_context/fast_binding_2way/shots_4",
    )  # fmt: skip
    result = fit(recipe)
    name = "fast_binding_2way/shots_4"
    assert "fell to" in result.summary["stopped_because"] and result.summary["steps"] < 12
    assert result.summary[f"in_context_base/{name}"] > 0.85
    assert result.summary[f"in_context/{name}"] < result.summary[f"in_context_base/{name}"] - 0.15
    assert "Stopped at step" in result.describe() and fit(recipe).status == "already finished"
    assert (tmp_path / "run" / "in_context" / "curves").is_dir()
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Scores over demonstrations" in page
