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


@pytest.mark.long
def test_examples_teach_the_names_of_unseen_classes(tmp_path):
    subprocess.run([sys.executable, "-m", "emu2_lit", "fit", "quickstart/in_context"], cwd=tmp_path, check=True)
    summary = json.loads((tmp_path / "runs" / "quickstart" / "in_context" / "summary.json").read_text())
    scores = [summary[f"in_context/fast_binding_2way/shots_{shots}"] for shots in (0, 1, 2, 4)]
    assert 0.46 < scores[0] < 0.54 and scores[1] >= 0.75 and scores[3] >= 0.90
    assert summary["in_context_base/fast_binding_2way/shots_4"] >= 0.90


@pytest.mark.long
def test_the_generation_quickstart_draws_what_it_is_told(tmp_path):
    """At least 0.90 of the texts and 0.85 of the boxes, by a judge that knows real digits; seeds differ."""
    subprocess.run([sys.executable, "-m", "emu2_lit", "fit", "quickstart/generation"], cwd=tmp_path, check=True)
    folder = tmp_path / "runs" / "quickstart" / "generation"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["generation/judge_accuracy"] >= 0.95
    assert summary["generation/text_accuracy"] >= 0.90 and summary["generation/box_accuracy"] >= 0.85
    assert summary["generation/relative_diversity"] >= 0.2
    assert len(list((folder / "drawings").rglob("*.png"))) >= 400
