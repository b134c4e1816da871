"""Stopped anywhere, a run ends as if it had not been: the same samples, bit-identical weights and optimizer."""

import json
import signal

import pytest
import torch
from lightning import Callback

from callbacks import find_last_checkpoint
from callbacks.batch_digests import consumed_samples
from emu2_lit.run import fit
from emu2_lit.run.compare import compare_runs
from tests.distributed import run_ranks
from tests.run.conftest import chat_recipe
from tests.run.resume_cases import KINDS, SignalAt, assert_identical, final_state, fit_with, killed, mixed, quiet


def assert_same_run(one, other, rtol=0.0):
    same, told = compare_runs(one, other)
    assert same, told
    if not rtol:
        assert_identical(final_state(one), final_state(other))
        return
    losses = [figures(run, "train/loss") for run in (one, other)]
    assert losses[0].keys() == losses[1].keys() and losses[0] == pytest.approx(losses[1], rel=rtol)


def figures(run, name) -> dict[int, float]:
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {record["step"]: record[name] for record in records if name in record}


@pytest.mark.parametrize(("kind", "workers"), [*((kind, 0) for kind in KINDS), ("one type in a step", 2)])
def test_stopped_and_killed_inside_windows(kind, workers, tmp_path, caption_model):
    """A stop finishes its step; a kill loses the steps since the last checkpoint, which are made again."""
    straight = fit(mixed(kind, tmp_path / "straight", caption_model)).directory
    recipe = mixed(kind, tmp_path / "other", caption_model, f"data.workers={workers}")
    assert fit_with(recipe, SignalAt(2, 1)).status == "interrupted"
    killed(recipe, SignalAt(4, 1, signal.SIGKILL))
    result = fit(recipe)
    assert result.status == "finished"
    assert_same_run(straight, result.directory)
    steps = [json.loads(line) for line in (result.directory / "batches" / "rank_0.jsonl").open() if line.strip()]
    assert [one.get("step", -one.get("resumed", 0)) for one in steps] == [1, 2, 3, -3, 4, -4, 5, 6]


def test_stopped_after_every_step(tmp_path, caption_model):
    straight = fit(quiet(tmp_path / "straight", caption_model)).directory
    recipe = quiet(tmp_path / "other", caption_model)
    for step in range(5):
        result = fit_with(recipe, SignalAt(step, step % 2))
        assert (result.status, result.summary["steps"]) == ("interrupted", step + 1)
    assert_same_run(straight, fit(recipe).directory)


@pytest.mark.parametrize("place", [(3, 0), (3, 1)])
def test_with_everything_in_between(place, tmp_path, caption_model, episodes):
    """Validation, answers, in-context scores and the report draw from generators of their own."""
    everything = [
        "tuning.lora.dropout=0.2", "trainer.deterministic=true", "trainer.val_check_interval=2",
        f"evaluation.benchmarks=[{{name: fast_binding_2way, path: {episodes}, limit: 4}}]", "evaluation.shots=[1]",
    ]  # fmt: skip
    straight = fit(quiet(tmp_path / "straight", caption_model)).directory
    recipe = chat_recipe(tmp_path / "other", caption_model, *everything)
    fit_with(recipe, SignalAt(*place))
    killed(recipe, SignalAt(5, 1, signal.SIGKILL))
    result = fit(recipe)
    assert_same_run(straight, result.directory)
    assert set(figures(result.directory, "val/loss")) == {2, 4, 6}


def _fit_ranks(recipe, step):
    return fit_with(recipe, *([SignalAt(step)] if step is not None else [])).status


@pytest.mark.parametrize(("ranks", "packing"), [((2, 1), False), ((1, 2), False), ((2, 2), False), ((2, 1), True)])
def test_onto_another_number_of_ranks(ranks, packing, tmp_path, caption_model):
    """At the same global batch, and onto as many: Lightning would give all ranks the loader state of rank 0. Dropout is
    drawn by micro-batch and rank, so it is off."""
    plain = ("tuning.lora.dropout=0.0", "data.sources.0.limit=20", "callbacks.report=true")
    plain += (f"data.packing={packing}", "data.max_length=400") if packing else ()
    straight = fit(quiet(tmp_path / "straight", caption_model, *plain)).directory
    for count, step in zip(ranks, (2, None), strict=True):
        size = [f"trainer.devices={count}", f"data.micro_batch_size={4 // count}"]
        strategy = ["trainer.strategy=ddp"] if count > 1 else []
        recipe = quiet(tmp_path / "other", caption_model, *plain, *size, *strategy)
        if count > 1:
            ended = run_ranks(_fit_ranks, count, recipe, step)
        else:
            ended = [_fit_ranks(recipe, step)]
        assert set(ended) == {"finished" if step is None else "interrupted"}
    assert_same_run(straight, tmp_path / "other" / "run", rtol=1e-5)
    assert len(list((tmp_path / "other" / "run" / "batches").iterdir())) == 2


class ReadsAhead(Callback):
    """Asks for the number of steps first of all, which made Lightning forget to restore loaders (its issue 20550)."""

    def setup(self, trainer, pl_module, stage):
        assert trainer.estimated_stepping_batches == 6


def test_reading_the_number_of_steps_first_restores_all_the_same(tmp_path, caption_model):
    straight = fit(quiet(tmp_path / "straight", caption_model)).directory
    recipe = quiet(tmp_path / "other", caption_model)
    fit_with(recipe, SignalAt(2), ReadsAhead())
    assert_same_run(straight, fit_with(recipe, ReadsAhead()).directory)


def test_no_save_inside_a_signal_handler_under_slurm(tmp_path, caption_model, monkeypatch):
    """Lightning's own would save where the signal strikes, in the middle of a window, and requeue the job."""
    for name, value in {
        "SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "tune", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0", "SLURM_NTASKS_PER_NODE": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    result = fit_with(quiet(tmp_path, caption_model), SignalAt(2, 1, signal.SIGUSR1))
    assert result.status == "interrupted" and result.summary["reason"] == "SIGUSR1"
    saved = {path.name for path in result.directory.rglob("*.ckpt")}
    assert saved == {"step=0000002.ckpt", "step=0000003.ckpt"}, "whole steps only, and nothing of Lightning's"


def test_the_oracle_sees_a_batch_that_is_lost(tmp_path, caption_model, monkeypatch):
    """Rows that differ and digests of what was consumed: a loader that is one batch ahead is found out."""
    from datamodules.chat import ChatDataModule

    straight = fit(quiet(tmp_path / "straight", caption_model)).directory
    recipe = quiet(tmp_path / "other", caption_model)
    fit_with(recipe, SignalAt(2))
    begin = ChatDataModule._begin
    monkeypatch.setattr(ChatDataModule, "_begin", lambda self: (begin(self)[0], [begin(self)[1][0] + 4]))
    fit(recipe)
    same, told = compare_runs(straight, tmp_path / "other" / "run")
    assert not same and "The first 24 samples are the same" in told and "at position 28" in told


def test_batches_of_unfinished_windows_are_not_noted(tmp_path, caption_model):
    recipe = quiet(tmp_path, caption_model, "callbacks.checkpoint_every_n_steps=100")
    killed(recipe, SignalAt(2, 1, signal.SIGKILL))
    assert find_last_checkpoint(tmp_path / "run" / "checkpoints") is None
    assert {step for step, _ in consumed_samples(tmp_path / "run" / "batches")} == {1, 2}


def test_a_checkpoint_tells_all_that_is_needed(chat_result):
    saved = torch.load(find_last_checkpoint(chat_result.directory / "checkpoints"), weights_only=True)
    for name in ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "loops", "about"):
        assert saved[name], name
    data = saved["ChatDataModule"]
    assert data["consumed"] == [48] and len(data["fingerprints"]) == 1
    assert saved["about"]["recipe"]["data"]["global_batch_size"] == 8
