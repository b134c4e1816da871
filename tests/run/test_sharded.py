"""Recipes as they stand, divided over two processes: the figures are those of one, callbacks in between included."""

import pytest

from emu2_lit import recipe as recipes
from emu2_lit.run import fit
from tests.distributed import run_ranks

FEW = ["trainer.max_steps=3", "trainer.log_every_n_steps=1", "data.workers=0", "data.validation_limit=8",
       "run.logger=[]"]  # fmt: skip
CASES = {
    "quickstart/in_context": ["data.micro_batch_size=4", "data.global_batch_size=8",
                              "evaluation.benchmarks.0.limit=8"],
    "quickstart/generation": ["data.types.0.batch_size=4", "data.types.1.batch_size=4", "data.micro_batch_size=2",
                              "evaluation.benchmarks.0.limit=4", "drawing.steps=2"],
    "pretrain/tiny_episodes": ["model.weights=tiny-in-context"],
}  # fmt: skip


def figures(name: str, overrides: list[str]) -> dict[str, float]:
    """Of a run of a recipe, all that does not depend on time."""
    summary = fit(recipes.load(name, overrides)).summary
    return {key: value for key, value in summary.items() if key.startswith(("train/", "val/", "in_", "generation"))}


@pytest.mark.parametrize("name", CASES)
def test_as_on_one_process(name, tmp_path, episodes, drawings):
    data = tmp_path / "data"
    data.mkdir()
    (data / "episodes").symlink_to(episodes)
    (data / "drawings").symlink_to(drawings)
    overrides = [*FEW, *CASES[name], f"data.folder={data}"]
    alone = figures(name, [*overrides, f"run.dir={tmp_path / 'one'}"])
    divided = [f"run.dir={tmp_path / 'two'}", "trainer.strategy=fsdp", "trainer.devices=2"]
    first, second = run_ranks(figures, 2, name, [*overrides, *divided])
    assert first == second
    assert first == pytest.approx(alone, rel=1e-4)
    assert any(key.startswith(("in_context", "generation/", "val/")) for key in first)
