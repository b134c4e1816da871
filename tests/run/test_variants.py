"""The switches of a recipe, each through a short run that must learn."""

import json

import pytest

from emu2_lit.errors import UserError
from emu2_lit.run import fit, load_run
from tests.run.conftest import chat_recipe

VARIANTS = {
    "qlora": ["model.quantization=nf4"],
    "qlora, adamw_8bit": ["model.quantization=nf4", "optimizer.name=adamw_8bit"],
    "fused, clipped": ["optimizer.fused=true", "trainer.precision=bf16-mixed", "trainer.gradient_clip_val=1"],
    "bf16-mixed, checkpointing": [
        "model.dtype=bfloat16", "trainer.precision=bf16-mixed", "tuning.activation_checkpointing=true",
    ],
    "bf16-true": ["model.dtype=bfloat16", "trainer.precision=bf16-true"],
    "dora": ["tuning.lora.use_dora=true"],
    "rslora": ["tuning.lora.use_rslora=true"],
    "tower": ["tuning.lora.targets=[attn.qkv,mlp.fc1,q_proj]", "tuning.frozen=[project_down]"],
    "full": ["tuning.method=full", "tuning.lora.dropout=0.05", "trainer.precision=bf16-mixed"],
    "csv, profiler": ["run.logger=[csv]", "trainer.profiler=simple"],
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_learns_and_can_be_talked_to(name, tmp_path, caption_model):
    if "qlora" in name:
        pytest.importorskip("bitsandbytes", reason="the qlora extra is not installed")
    recipe = chat_recipe(tmp_path, caption_model, "trainer.max_steps=8", *VARIANTS[name])
    result = fit(recipe)
    records = [json.loads(line) for line in (result.directory / "metrics.jsonl").read_text().splitlines()]
    losses = [record["train/loss"] for record in records if "train/loss" in record]
    assert len(losses) == 8 and losses[-1] < losses[0]
    model, processor = load_run(result.directory)
    ids = model.generate(**processor(text=["[USER]: hello [ASSISTANT]:"]), max_new_tokens=2, do_sample=False)
    assert ids.shape[0] == 1 and ids.shape[1] <= 2


def test_a_loss_that_is_lost_ends_the_run(tmp_path, caption_model):
    changes = ("optimizer.lr=1e30", "optimizer.warmup_steps=0", "callbacks.answers=null")
    recipe = chat_recipe(tmp_path, caption_model, *changes)
    with pytest.raises(UserError, match=r"step \d: .*not finite.*in a row.*optimizer.lr"):
        fit(recipe)
    assert not (tmp_path / "run" / "summary.json").exists()
