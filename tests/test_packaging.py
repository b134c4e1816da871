"""The wheel holds the three packages and the recipes, and works wherever it is run."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from emu2_lit.recipe import catalog

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The wheel, built and unpacked as an installer would."""
    pytest.importorskip("hatchling", reason="the build backend is not installed (extra `dev`)")
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "emu2_lit", *arguments],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(installed)}, capture_output=True, text=True,
    )  # fmt: skip


def test_wheel_holds_packages_and_recipes(installed):
    assert {"emu2_lit", "datamodules", "callbacks"} <= {path.name for path in installed.iterdir()}
    shipped = {file.relative_to(installed / "emu2_lit/recipes") for file in installed.rglob("recipes/**/*.yaml")}
    assert shipped == {Path(f"{name}.yaml") for name in catalog.names()}


def test_recipes_are_found_in_the_package(installed, tmp_path):
    done = run(installed, tmp_path, "recipes", "--json")
    assert done.returncode == 0 and str(installed) in done.stdout


def test_a_folder_with_packages_of_the_same_names(installed, tmp_path):
    for name in ("callbacks", "datamodules"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the wrong package')")
    done = run(installed, tmp_path, "export", "absent", "--to", "hf", "--out", "out")
    assert done.returncode == 2 and "absent" in done.stderr
