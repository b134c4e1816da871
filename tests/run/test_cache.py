"""The frozen tower's features, computed once: a run on them is the run with the tower."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from PIL import Image

from emu2_lit import run
from emu2_lit.errors import UserError
from emu2_lit.model.loading import iterate_tensors
from emu2_lit.run.assemble import build_datamodule, build_module, build_origin, build_trainer
from emu2_lit.run.cache import cache
from emu2_lit.run.features import features_key
from emu2_lit.run.plan import plan
from emu2_lit.samples.features import FeatureStore
from tests.modules.runs import _Recorder
from tests.run.conftest import short
from tests.run.resume_cases import quiet

FULL = ["tuning.method=full", "tuning.frozen=[visual,project_down]", "tuning.lora={}"]


@pytest.fixture(scope="module")
def features(tmp_path_factory, caption_model) -> Path:
    """Features of the digits; the run folder's data lie beside them."""
    folder = tmp_path_factory.mktemp("features")
    recipe = tuned(folder, caption_model)
    recipe.data.features = str(folder / "features")
    done = cache(recipe)
    assert done.new == done.pictures > 0 and not done.bad
    return folder


def tuned(folder: Path, base: Path, *overrides: str):
    return quiet(folder, base, "trainer.precision=32-true", "model.dtype=float32", "data.workers=0", *overrides)


def losses(recipe) -> dict[int, float]:
    origin = build_origin(recipe)
    trainer = build_trainer(recipe)
    trainer.callbacks.append(recorder := _Recorder(99, Path("none")))
    trainer.fit(module := build_module(recipe, origin), build_datamodule(recipe, origin))
    assert (module.tower is False) == (recipe.data.features is not None)
    return recorder.losses


def test_losses_are_those_of_a_run_with_the_tower(features, caption_model):
    """To the rounding of float32: the tower sees pictures in other batches."""
    live = losses(tuned(features, caption_model))
    cached = losses(tuned(features, caption_model, f"data.features={features / 'features'}"))
    assert len(live) == 6 and cached == {step: pytest.approx(loss, rel=1e-5) for step, loss in live.items()}
