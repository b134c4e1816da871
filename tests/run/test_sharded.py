"""Recipes as they stand, divided over two processes: the figures are those of one, callbacks in between included, and
a checkpoint is exported as what the run itself left."""

from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from callbacks.batch_digests import consumed_samples
from callbacks.records import StepRecords
from emu2_lit import recipe as recipes
from emu2_lit.export import export
from emu2_lit.run import fit
from tests.distributed import run_ranks

FEW = ["trainer.max_steps=3", "trainer.log_every_n_steps=1", "data.workers=0", "data.validation_limit=8",
       "run.logger=[]"]  # fmt: skip
NAMES = {
    "quickstart/in_context": ["data.micro_batch_size=4", "data.global_batch_size=8",
                              "evaluation.benchmarks.0.limit=8"],
    "quickstart/generation": ["data.types.0.batch_size=4", "data.types.1.batch_size=4", "data.micro_batch_size=2",
                              "evaluation.benchmarks.0.limit=4", "drawing.steps=2"],
    "pretrain/tiny_episodes": ["model.weights=tiny-in-context", "tuning.gradient_norm_interval=1"],
    "quickstart/caption": ["model.weights=tiny-in-context", "data.micro_batch_size=4", "data.global_batch_size=8"],
    "quickstart/chat": ["model.weights=tiny-in-context", "data.micro_batch_size=4", "data.global_batch_size=8"],
}  # fmt: skip
KINDS = [
    ("quickstart/in_context", "fsdp"),
    ("quickstart/generation", "fsdp"),
    ("pretrain/tiny_episodes", "fsdp"),
    ("quickstart/in_context", "deepspeed_stage_2"),
    ("quickstart/generation", "deepspeed_stage_3"),
    ("quickstart/chat", "deepspeed_stage_3_offload"),
    ("quickstart/caption", "fsdp trainer.tensor_parallel=2"),
    ("quickstart/generation", "fsdp trainer.tensor_parallel=2"),
    ("pretrain/tiny_episodes", "fsdp trainer.tensor_parallel=2"),
]


def figures(name: str, overrides: list[str]) -> dict[str, float]:
    """Of a run of a recipe, all that does not depend on time."""
    summary = fit(recipes.load(name, overrides)).summary
    kinds = ("train/", "val/", "in_", "generation", "consumed")
    return {key: value for key, value in summary.items() if key.startswith(kinds)}


def curves(run: Path) -> dict[str, float]:
    """Losses and norms of each step."""
    return {
        f"{record['step']} {key}": value
        for record in StepRecords(run / "metrics.jsonl").read()
        for key, value in record.items()
        if key.startswith("train/")
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory, digits, episodes, drawings) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "digits").symlink_to(digits)
    (folder / "episodes").symlink_to(episodes)
    (folder / "drawings").symlink_to(drawings)
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory, data):
    """Figures and curves of a recipe on one process."""
    known = {}

    def run(name: str) -> dict[str, float]:
        if name not in known:
            folder = tmp_path_factory.mktemp("one")
            found = figures(name, [*FEW, *NAMES[name], f"data.folder={data}", f"run.dir={folder}"])
            known[name] = found | curves(folder)
        return known[name]

    return run


@pytest.mark.parametrize(("name", "strategy"), KINDS)
def test_as_on_one_process(name, strategy, tmp_path, data, alone):
    run = tmp_path / "run"
    divided = [f"data.folder={data}", f"run.dir={run}", *f"trainer.strategy={strategy}".split(), "trainer.devices=2"]
    first, second = run_ranks(figures, 2, name, [*FEW, *NAMES[name], *divided])
    assert first == second
    assert any(key.startswith(("in_context", "generation/", "val/")) for key in first)
    assert first | curves(run) == pytest.approx(alone(name), rel=1e-4)
    assert sum(1 for _ in consumed_samples(run / "batches")) == first["consumed_samples"]
    assert_exports(run, tmp_path / "exported")


def assert_exports(run: Path, out: Path) -> None:
    """That the last checkpoint of a run is exported as what the run itself left."""
    (left,) = [*run.glob("adapter/*.safetensors"), *run.glob("model/model.safetensors")]
    export(run / "checkpoints" / "last", "adapter" if left.parent.name == "adapter" else "hf", out)
    there, exported = load_file(left), load_file(out / left.name)
    assert there.keys() == exported.keys()
    for key, tensor in there.items():
        assert_close(exported[key], tensor, rtol=1e-6, atol=1e-7, msg=key)


@pytest.mark.parametrize("strategy", ["deepspeed_stage_2", "deepspeed_stage_3"])
def test_what_computes_in_16_bits_is_left_in_32(strategy, tmp_path, data):
    name, run = "quickstart/chat", tmp_path / "run"
    divided = [f"data.folder={data}", f"run.dir={run}", f"trainer.strategy={strategy}", "trainer.devices=2",
               "trainer.precision=bf16-mixed", "callbacks.answers=null"]  # fmt: skip
    run_ranks(figures, 2, name, [*FEW, *NAMES[name], *divided])
    assert_exports(run, tmp_path / "exported")


def poisoned(name: str, overrides: list[str]) -> str:
    """What a run is told that divides zero by zero."""
    import torch

    from emu2_lit.errors import UserError
    from tests.run.test_nonfinite import Poison, fit_with

    with pytest.raises(UserError) as caught:
        fit_with(recipes.load(name, overrides), Poison(1, 0))
    assert torch.distributed.is_initialized()
    return str(caught.value)


def test_an_engine_that_makes_its_own_steps_is_stopped_by_a_bad_loss(tmp_path, data):
    recipe = "quickstart/in_context"
    divided = [f"data.folder={data}", f"run.dir={tmp_path}", "trainer.strategy=deepspeed_stage_2", "trainer.devices=2",
               "evaluation.benchmarks=[]", "data.validation=[]"]  # fmt: skip
    for told in run_ranks(poisoned, 2, recipe, [*FEW, *NAMES[recipe][:2], *divided]):
        assert "step 2: the loss (nan)" in told and "so the run stops" in told
