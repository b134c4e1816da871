"""The quickstart as a user runs it, whole."""

import json
import subprocess
import sys

import pytest


@pytest.mark.long
def test_the_tiny_model_learns_to_answer(tmp_path):
    subprocess.run([sys.executable, "-m", "emu2_lit", "fit", "quickstart/chat"], cwd=tmp_path, check=True)
    folder = tmp_path / "runs" / "quickstart" / "chat"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["val/exact_match_base"] < 0.2
    assert summary["val/exact_match"] >= 0.9
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.long
def test_eight_samples_are_learned_by_heart(tmp_path):
    subprocess.run([sys.executable, "-m", "emu2_lit", "fit", "debug/overfit"], cwd=tmp_path, check=True)
    summary = json.loads((tmp_path / "runs" / "debug" / "overfit" / "summary.json").read_text())
    assert summary["val/exact_match"] == 1.0
    assert summary["train/loss"] < 0.05
