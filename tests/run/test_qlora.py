"""A base in 4 bits, from the first step to a merged model; 8-bit moments; compiled blocks."""

import re
from functools import partial

import pytest
import torch
from torch.utils._pytree import tree_leaves

from emu2_lit import recipe as recipes
from emu2_lit.cli import main
from emu2_lit.errors import UserError
from emu2_lit.export import export
from emu2_lit.model import Emu2ForConditionalGeneration
from emu2_lit.run import fit, load_run
from emu2_lit.run.evaluate import evaluate
from tests.run.conftest import chat_recipe
from tests.run.resume_cases import SignalAt, assert_identical, final_state, fit_with, quiet

QLORA = ["model.quantization=nf4", "model.dtype=bfloat16", "trainer.precision=bf16-mixed"]
RESUMED = {
    "nf4": QLORA,
    "nf4, adamw_8bit": [*QLORA, "optimizer.name=adamw_8bit", "tuning.lora.rank=64"],  # small tensors keep 32 bits
    "compiled": ["trainer.compile=true"],
    "fused": ["optimizer.fused=true"],
}


@pytest.fixture(autouse=True)
def needs_bitsandbytes(request):
    if "compiled" not in request.node.name and "fused" not in request.node.name:
        pytest.importorskip("bitsandbytes", reason="the qlora extra is not installed")


@pytest.fixture
def quick_compiler(monkeypatch):
    """Traces as always and makes no C++ of it, which takes longer than these runs."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


@pytest.mark.parametrize("kind", RESUMED)
def test_a_resumed_run_ends_as_one_that_was_not_stopped(kind, tmp_path, caption_model, quick_compiler):
    straight = fit(quiet(tmp_path / "straight", caption_model, *RESUMED[kind])).directory
    recipe = quiet(tmp_path / "other", caption_model, *RESUMED[kind])
    assert fit_with(recipe, SignalAt(2, 1)).status == "interrupted"
    other = fit(recipe).directory
    assert_identical(final_state(straight), final_state(other))
    if "8bit" in kind:
        state = tree_leaves(final_state(straight)["optimizer_states"][0]["state"])
        assert any(torch.is_tensor(leaf) and leaf.dtype == torch.uint8 for leaf in state)


def test_moments_of_another_optimizer_are_refused(tmp_path, caption_model):
    recipe = quiet(tmp_path, caption_model)
    fit_with(recipe, SignalAt(2, 1))
    with pytest.raises(UserError, match=r"optimizer.name: the checkpoint holds the moments of another"):
        fit(quiet(tmp_path, caption_model, "optimizer.name=adamw_8bit", "resume.allow=[optimizer]"))


@pytest.fixture(scope="module")
def qlora(tmp_path_factory, caption_model):
    pytest.importorskip("bitsandbytes", reason="the qlora extra is not installed")
    recipe = chat_recipe(tmp_path_factory.mktemp("qlora"), caption_model, *QLORA, "optimizer.lr=1e-2")
    return fit(recipe).directory


def test_export_merges_into_the_stored_weights_and_tells_the_error(qlora, tmp_path, caplog):
    with caplog.at_level("INFO"):
        export(qlora, out=tmp_path / "merged")
    told = re.search(r"differ .* by ([\d.e-]+) on average and ([\d.e-]+) at most \(their spread: ([\d.]+)", caplog.text)
    mean, largest, spread = map(float, told.groups())
    assert 0 < mean < min(largest, spread)
    merged = Emu2ForConditionalGeneration.from_pretrained(tmp_path / "merged")
    adapted, _ = load_run(qlora)
    base = next(module for name, module in adapted.named_modules() if name.endswith("layers.0.self_attn.q_proj"))
    wanted = base.base_layer.weight + base.get_delta_weight("default")
    torch.testing.assert_close(merged.lm.model.layers[0].self_attn.q_proj.weight, wanted)


def test_no_error_is_told_on_request_or_without_4_bits(qlora, chat_result, tmp_path, caplog, capsys):
    with caplog.at_level("INFO"):
        assert main(["export", str(qlora), "--to", "native", "--out", str(tmp_path / "a.bin"), "--no-merge-error"]) == 0
        assert main(["export", str(chat_result.directory), "--to", "hf", "--out", str(tmp_path / "b")]) == 0
    assert "Merging error" not in caplog.text


def test_evaluates_in_4_bits(qlora, tmp_path, episodes):
    changes = [f"model.weights={qlora}", *QLORA[:2], "trainer.accelerator=cpu", "evaluation.shots=[1]"]
    benchmark = f"evaluation.benchmarks=[{{name: fast_binding_2way, path: {episodes}, limit: 4}}]"
    scores = evaluate(recipes.load("evaluate/custom", [*changes, benchmark, f"run.dir={tmp_path / 'run'}"]))
    assert [one.items for one in scores] == [4]
