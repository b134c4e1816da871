"""Every benchmark says how it is run and runs at a small size; the timings themselves are no test."""

import importlib
import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("__init__", "measure"))


@pytest.mark.parametrize("name", NAMES)
def test_says_its_command_and_has_a_result(name):
    module = importlib.import_module(f"benchmarks.{name}")
    assert f"python -m benchmarks.{name}" in module.__doc__ and callable(module.main)
    assert (FOLDER / "results" / f"{name}.json").is_file()


SMALL = {
    "generate_image": ["--preset=tiny", "--repeats=1"],
    "loader": ["--samples=16", "--workers=0", "--repeats=1"],
    "packing": ["--samples=4", "--width=32", "--repeats=1"],
    "published_size": ["--preset=tiny", "--length=96", "--repeats=1"],
    "supervised_logits": ["--length=64", "--width=32"],
    "training_overhead": ["--preset=tiny", "--steps=3"],
}


@pytest.mark.parametrize("name", SMALL)
def test_runs_at_a_small_size(name, tmp_path, monkeypatch):
    if name == "published_size":
        pytest.importorskip("bitsandbytes", reason="the qlora extra is not installed")
    if name == "loader":
        pytest.importorskip("sklearn")
    monkeypatch.setattr("benchmarks.measure.RESULTS", tmp_path)
    importlib.import_module(f"benchmarks.{name}").main(SMALL[name])
    result = json.loads((tmp_path / f"{name}.json").read_text())
    assert result["name"] == name and result["torch"]
    assert result.get("times_fewer_positions", 50) >= 50  # counted, not timed
