"""Going on with a recipe that has changed."""

import shutil

import pytest
import torch

from callbacks import find_last_checkpoint
from emu2_lit.cli import main
from emu2_lit.errors import UserError
from emu2_lit.run import fit
from emu2_lit.run.compare import compare_runs
from tests.run.resume_cases import quiet


@pytest.fixture(scope="module")
def two_steps(caption_model, tmp_path_factory):
    """A run of two steps."""
    folder = tmp_path_factory.mktemp("two")
    fit(quiet(folder, caption_model, "trainer.max_steps=2"))
    return folder


@pytest.fixture
def go_on(two_steps, tmp_path, caption_model):
    """Goes on with a copy of that run."""
    shutil.copytree(two_steps, tmp_path / "copy")
    return lambda *overrides: fit(quiet(tmp_path / "copy", caption_model, "trainer.max_steps=4", *overrides))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("data.seed=3", "data.seed: 0 -> 3"),
        ("run.seed=3", "run.seed: 0 -> 3"),
        ("data.global_batch_size=16", "data.global_batch_size: 8 -> 16"),
        ("trainer.precision=bf16-mixed", "trainer.precision: 32-true -> bf16-mixed"),
        ("tuning.lora.rank=8", "tuning.lora.rank: 16 -> 8"),
        ("tuning.frozen=[project_down]", "tuning.frozen: ['visual', 'project_down'] -> ['project_down']"),
        ("data.sources.0.limit=9", "data.sources.0.limit: None -> 9"),
    ],
)
def test_what_would_change_the_result_is_refused(go_on, change, told):
    with pytest.raises(UserError) as error:
        go_on(change)
    key = change.split("=")[0]
    assert told in str(error.value) and f"'resume.allow=[{key}]'" in str(error.value)


def test_other_changes_are_only_told(go_on, caplog):
    caplog.set_level("INFO")
    assert go_on("data.workers=1", "callbacks.keep_checkpoints=1").summary["steps"] == 4
    assert "data.workers: 0 -> 1" in caplog.text and "trainer.max_steps: 2 -> 4" in caplog.text


def test_allowed_once_it_is_the_run_s_own(go_on, two_steps, capsys):
    result = go_on("data.seed=3", "resume.allow=[data.seed]")
    assert result.summary["steps"] == 4
    assert go_on("data.seed=3", "trainer.max_steps=5").summary["steps"] == 5
    assert main(["data", "compare", str(two_steps / "run"), str(result.directory)]) == 1
    assert "The first 16 samples are the same; then" in capsys.readouterr().out


def test_allowed_sources_go_on_at_the_same_place(go_on):
    assert go_on("data.sources.0.limit=30", "resume.allow=[data]").summary["steps"] == 4


def test_an_allowed_rate_is_what_it_then_learns_with(go_on):
    changed = ("lr=0.5", "betas=[0.5, 0.6]", "warmup_steps=0", "schedule=constant")
    overrides = [f"optimizer.{change}" for change in changed]
    folder = go_on(*overrides, "resume.allow=[optimizer]", "trainer.max_steps=3").directory
    saved = torch.load(find_last_checkpoint(folder / "checkpoints"), weights_only=True)
    for group in saved["optimizer_states"][0]["param_groups"]:
        assert group["lr"] == 0.5 and group["betas"] == (0.5, 0.6)


def test_same_samples_are_told_by_the_command(two_steps, tmp_path, capsys):
    shutil.copytree(two_steps / "run", tmp_path / "again")
    assert main(["data", "compare", str(two_steps / "run"), str(tmp_path / "again")]) == 0
    assert "The same 16 samples in the same order, up to step 2" in capsys.readouterr().out
    path = tmp_path / "again" / "batches" / "rank_0.jsonl"
    path.write_text(path.read_text().splitlines()[0] + '\n{"step": 2, "ra')  # cut off by a crash
    same, told = compare_runs(two_steps / "run", tmp_path / "again")
    assert not same and "The first 8 samples are the same; then" in told and "again ends" in told
    with pytest.raises(UserError, match="no consumed batch"):
        compare_runs(two_steps / "run", tmp_path)
