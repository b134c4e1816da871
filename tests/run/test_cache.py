"""The frozen tower's features, computed once: a run on them is the run with the tower."""

import json
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from emu2_lit import run
from emu2_lit.errors import UserError
from emu2_lit.model.loading import iterate_tensors
from emu2_lit.run.assemble import build_datamodule, build_module, build_origin, build_trainer
from emu2_lit.run.cache import cache
from emu2_lit.run.features import features_key
from emu2_lit.run.plan import plan
from emu2_lit.samples.features import FeatureStore
from tests.modules.runs import _Recorder
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


def test_what_is_there_is_not_made_again(features, caption_model, tmp_path):
    recipe = tuned(features, caption_model, f"data.features={features / 'features'}")
    files = {file: file.stat().st_mtime_ns for file in (features / "features").rglob("*.safetensors")}
    done = cache(recipe)
    assert done.new == done.bytes == 0 and done.pictures > 0
    assert files == {file: file.stat().st_mtime_ns for file in (features / "features").rglob("*.safetensors")}


def test_several_processes_write_the_same(features, caption_model, tmp_path, monkeypatch):
    shutil.copytree(features / "data", tmp_path / "data")
    recipe = tuned(tmp_path, caption_model, f"data.features={tmp_path / 'out'}", "data.sources.0.limit=40")
    copies = tmp_path / "copies.json"
    rows = json.loads((tmp_path / "data" / "digits" / "chat_train.json").read_text())[:20]
    copies.write_text(json.dumps(rows))  # pictures that are there before
    monkeypatch.setattr("emu2_lit.run.cache.SHARD_BYTES", 2000)
    done = cache(recipe, processes=2)
    one, two = (FeatureStore(done.folder if root == tmp_path else next((root / "features").iterdir()))
                for root in (features, tmp_path))  # fmt: skip
    assert len(two) == done.pictures < len(one) and len(two.files) > 2
    for picture in sorted((tmp_path / "data" / "digits" / "images").glob("*.png"))[:400]:
        try:
            features_of = two(picture, 4)
        except UserError:
            continue
        torch.testing.assert_close(features_of, one(picture, 4), rtol=1e-5, atol=1e-6)


def test_killed_it_goes_on(features, caption_model, tmp_path):
    out = tmp_path / "out"
    program = (
        "import sys, os, signal\n"
        "from emu2_lit.run import cache as made\n"
        "from tests.run.test_cache import tuned\n"
        "from pathlib import Path\n"
        "made.SHARD_BYTES = 8000\n"
        f"recipe = tuned(Path({str(features)!r}), Path({str(caption_model)!r}), 'data.features={out}')\n"
        "def kill(counts, total):\n"
        "    for place, count in enumerate(counts):\n"
        "        yield count\n"
        "        if place == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "made.cache(recipe, progress=kill)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    there = len(FeatureStore(next(out.iterdir())))
    assert there > 0
    done = cache(tuned(features, caption_model, f"data.features={out}"))
    assert done.pictures - done.new == there and len(FeatureStore(done.folder)) == done.pictures


def test_the_key_is_that_of_tower_preparation_and_arithmetic(caption_model, tmp_path):
    """A run folder of a full run whose tower is the base's has the same; another tower or size has not."""

    def key(*overrides: str) -> str:
        recipe = tuned(tmp_path, caption_model, *overrides)
        return features_key(recipe, build_origin(recipe))

    changed = tmp_path / "changed"
    model, processor = run.load_run(caption_model, dtype=torch.float32, device_map={"": "cpu"})
    model.save_pretrained(tmp_path / "same", processor=processor)
    model.project_up.weight.data += 1
    model.save_pretrained(tmp_path / "other_lm", processor=processor)
    model.visual.pos_embed.data += 0.01
    model.save_pretrained(changed, processor=processor)
    weights = [key(f"model.weights={folder}") for folder in (tmp_path / "same", tmp_path / "other_lm", changed)]
    keys = [*weights, key("trainer.precision=bf16-mixed"), key("model.dtype=bfloat16")]
    assert keys[0] == keys[1] and len(set(keys)) == 4


def test_a_tower_that_trains_is_refused(caption_model, tmp_path):
    wanted = f"data.features={tmp_path}"
    for overrides in (["tuning.lora.targets=[attn.qkv]"], [*FULL, "tuning.frozen=[project_down]"]):
        recipe = tuned(tmp_path, caption_model, wanted, *overrides, "tuning.frozen=[project_down]")
        with pytest.raises(UserError, match=r"data\.features: the tower trains"):
            cache(recipe)


def test_the_disk_is_looked_at_first(features, caption_model, tmp_path, monkeypatch):
    recipe = tuned(features, caption_model, f"data.features={tmp_path / 'out'}")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 10))
    with pytest.raises(UserError, match=r"caching \d+ pictures needs .* GB of disk"):
        cache(recipe)
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_no_features_of_this_tower(caption_model, tmp_path):
    recipe = tuned(tmp_path, caption_model, f"data.features={tmp_path / 'none'}")
    with pytest.raises(UserError, match=r"holds no features of this tower.*emu2-lit data cache quickstart/chat --out"):
        build_origin(recipe)


def test_evaluates_and_hands_over_without_the_tower(features, caption_model, episodes, tmp_path, monkeypatch):
    """In full: validation, answers and in-context scores from features; the model that is written is whole."""
    about = [
        f"run.dir={tmp_path / 'run'}", f"data.features={tmp_path / 'features'}", "trainer.max_steps=2",
        "data.sources.0.limit=24", "data.validation_limit=8", "trainer.val_check_interval=1",
        f"evaluation.benchmarks=[{{name: fast_binding_2way, path: {episodes}, limit: 4}}]", "evaluation.shots=[0, 1]",
        "callbacks.answers={limit: 4, max_new_tokens: 2}", *FULL,
    ]  # fmt: skip
    recipe = tuned(features, caption_model, *about)
    cache(recipe)
    with monkeypatch.context() as patched:
        patched.setattr("emu2_lit.model.vision.Emu2VisionModel.forward", None)  # nothing is encoded
        result = run.fit(recipe)
    assert "in_context/fast_binding_2way/shots_1" in result.summary and "val/loss" in result.summary
    before = dict(iterate_tensors(caption_model / "model"))
    after = dict(iterate_tensors(tmp_path / "run" / "model"))
    assert before.keys() <= after.keys()
    tower = [name for name in before if name.startswith("model.visual.")]
    assert tower and all(torch.equal(before[name], after[name]) for name in tower)
    live = tuned(features, caption_model, *about, "data.features=null")
    assert plan(recipe).peak < plan(live).peak
