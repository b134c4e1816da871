"""Killed again and again, at random moments and during saves, and started by the same command each time."""

import pytest

from benchmarks.kills import kill_repeatedly
from emu2_lit.run import fit
from emu2_lit.run.compare import compare_runs
from tests.run.resume_cases import assert_identical, final_state, quiet


@pytest.mark.parametrize(
    ("kills", "steps"), [(5, 12), pytest.param(50, 60, marks=pytest.mark.long)], ids=["5 kills", "50 kills"]
)
def test_ends_as_if_never_killed(kills, steps, tmp_path, caption_model):
    options = [f"trainer.max_steps={steps}", "trainer.val_check_interval=7", "callbacks.checkpoint_every_n_steps=1"]
    straight = fit(quiet(tmp_path / "straight", caption_model, *options)).directory
    killed = quiet(tmp_path / "killed", caption_model, *options)
    found = kill_repeatedly(killed, kills, seconds=4)
    assert found.kills == kills and found.during_saves >= kills // 2
    other = tmp_path / "killed" / "run"
    assert_identical(final_state(straight), final_state(other))
    same, told = compare_runs(straight, other)
    assert same, told
    name = "adapter/adapter_model.safetensors"
    assert (straight / name).read_bytes() == (other / name).read_bytes()
    assert not (other / "checkpoints" / ".partial").exists()
