"""A recipe whose run draws while it trains."""

import pytest
import torch
from skimage import data, io

from emu2_lit.errors import UserError
from emu2_lit.run import fit
from emu2_lit.run.assemble import build_callbacks
from emu2_lit.run.decoder import open_decoder
from tests.evaluation.drawing_cases import dreambench_folder
from tests.run.conftest import short

pytest.importorskip("diffusers", reason="the visual decoder's library is not installed (extra `generation`)")


@pytest.fixture
def recipe(tmp_path):
    dreambench_folder(tmp_path / "dreambench", {"cat": "cat"})
    io.imsave(tmp_path / "cat.png", data.chelsea())
    picture = f"{{image: {tmp_path / 'cat.png'}}}"
    return short(
        "quickstart/caption", tmp_path, "trainer.max_steps=2", "data.validation_limit=4", "model.decoder=tiny",
        "drawing.steps=2", "callbacks.drawings.every_n_steps=1",
        f"callbacks.drawings.prompts=[{{parts: [{{text: 'a '}}, {picture}, {{box: [0.1, 0.2, 0.9, 0.9]}}]}}]",
        f"evaluation.benchmarks=[{{name: dreambench, path: {tmp_path / 'dreambench'}, limit: 1}}]",
    )  # fmt: skip


def test_it_leaves_drawings_and_figures(recipe, tmp_path):
    result = fit(recipe)
    names = {"generation/dreambench/diversity", "generation_base/dreambench/embedding_cosine"}
    assert names <= result.summary.keys()
    drawn = sorted(path.parent.name for path in (tmp_path / "run" / "drawings" / "samples").rglob("*.png"))
    assert drawn == ["base", "step=0000001", "step=0000002"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Drawings: samples after 2 steps" in page and "Drawings: dreambench" in page


def test_both_callbacks_share_one_decoder(recipe):
    evaluation, samples = (
        one for one in build_callbacks(recipe) if type(one).__name__ in ("GenerationEvaluation", "GenerationSamples")
    )
    assert evaluation._decoder() is samples._decoder()


def test_a_benchmark_that_draws_needs_a_decoder(recipe):
    recipe.model.decoder = None
    with pytest.raises(UserError, match="model.decoder: say what draws for the benchmark dreambench"):
        build_callbacks(recipe)


def test_a_preset_is_the_same_decoder_every_time_and_draws_no_random_number():
    state = torch.random.get_rng_state()
    one, other = open_decoder("tiny"), open_decoder("tiny", torch.bfloat16)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(a.to(torch.bfloat16), b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
