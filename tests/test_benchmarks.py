"""Every benchmark can be imported and says how it is run; the timings themselves are no test."""

import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("__init__", "measure"))


@pytest.mark.parametrize("name", NAMES)
def test_says_its_command_and_has_a_result(name):
    module = importlib.import_module(f"benchmarks.{name}")
    assert f"python -m benchmarks.{name}" in module.__doc__ and callable(module.main)
    assert (FOLDER / "results" / f"{name}.json").is_file()
