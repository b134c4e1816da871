"""The unified module: golden losses, one update for any split of a batch, gradient norms of the two losses."""

import pytest
import torch
from lightning import Trainer
from PIL import Image
from skimage import data as pictures
from torch.testing import assert_close

from datamodules.collate import Collator, Draw, target_counts
from emu2_lit.errors import UserError
from emu2_lit.model import Emu2Config, Emu2ForConditionalGeneration, Emu2Processor
from emu2_lit.model.objective import unified_targets
from emu2_lit.modules import UnifiedTuning
from emu2_lit.samples.encoding import encode
from emu2_lit.samples.sample import Part, Sample
from emu2_lit.settings import OptimizerSettings
from tests.golden_data import golden

TINY = Emu2Config.preset("tiny")


def document(id, *values):
    """Texts and pictures, all of it learned."""
    return Sample(id, tuple(part(value) for value in values))


def part(value):
    kind, value = ("text", value) if isinstance(value, str) else ("image", Image.fromarray(value))
    return Part(kind, value, learn=True)


def documents():
    return [
        document("one", "a cat", pictures.chelsea(), "is red."),
        document("two", pictures.coffee(), pictures.rocket()),
        document("three", "only text, and longer than the others are"),
        document("four", pictures.astronaut(), "a picture of a"),
    ]


def batches(samples, size):
    """Micro-batches of one optimizer step, as the loader deals them out."""
    processor = Emu2Processor.for_config(TINY)
    collate = Collator(processor.tokenizer.bos_id, processor.tokenizer.pad_id)
    draws = [Draw("documents", 0, encode(sample, processor)) for sample in samples]
    made = [collate(draws[start : start + size]) for start in range(0, len(draws), size)]
    text, visual = (sum(counts) for counts in zip(*map(target_counts, made), strict=True))
    for place, batch in enumerate(made):
        batch["window"] = dict(
            text_targets=text, visual_targets=visual, micro_batches=len(made), step=0, micro_batch=place
        )
    return made


def train(made, **settings):
    """One optimizer step on the micro-batches; the module and what it logged."""
    torch.manual_seed(0)
    module = UnifiedTuning(
        Emu2ForConditionalGeneration(TINY), optimizer=OptimizerSettings(lr=1e-3, warmup_steps=1), **settings
    )
    trainer = Trainer(
        max_steps=1, accumulate_grad_batches=len(made), accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(made, batch_size=None))
    return module, {name: float(value) for name, value in trainer.callback_metrics.items()}


@pytest.mark.parametrize("name", ["base", "chat"])
def test_losses_are_those_recorded(name):
    reference = golden(name)
    expected = reference.objective["unified"]
    batch = reference.processor(text=expected["texts"], images=reference.images)
    labels, visual = unified_targets(batch["input_ids"], batch["attention_mask"], reference.config.special_ids)
    module = UnifiedTuning(reference.model, reference.processor)
    module.model = reference.model.eval()
    losses = module.losses({**batch, "labels": labels, "visual_targets_mask": visual})
    assert float(losses["text"][0]) == pytest.approx(expected["text_ce_mean"], abs=1e-4)
    assert float(losses["visual"][0]) == pytest.approx(expected["visual_mse_mean"], abs=1e-4)
    assert [int(losses[kind][1]) for kind in module.kinds] == [expected["text_targets"], expected["visual_targets"]]


def test_a_learned_document_has_the_targets_of_the_objective():
    (batch,) = batches(documents(), 4)
    labels, visual = unified_targets(batch["input_ids"], batch["attention_mask"], TINY.special_ids)
    assert torch.equal(batch["labels"], labels) and torch.equal(batch["visual_targets_mask"], visual)


@pytest.mark.parametrize("size", [1, 2])
def test_each_loss_is_a_mean_over_the_whole_step(size):
    whole, logged = train(batches(documents(), 4), visual_loss_weight=0.5)
    split, split_logged = train(batches(documents(), size), visual_loss_weight=0.5)
    assert logged["train/loss"] == pytest.approx(logged["train/text_loss"] + 0.5 * logged["train/visual_loss"])
    for name, value in logged.items():
        assert split_logged[name] == pytest.approx(value, rel=1e-4), name
    for (name, one), other in zip(whole.named_parameters(), split.parameters(), strict=True):
        assert_close(one, other, rtol=1e-3, atol=2e-5, msg=name)


def test_gradient_norms_at_the_last_hidden_state():
    made = batches(documents(), 2)
    _, logged = train(made, gradient_norm_interval=1)
    torch.manual_seed(0)
    model = Emu2ForConditionalGeneration(TINY).train()
    (whole,) = batches(documents(), 4)
    inputs = {name: whole[name] for name in ("input_ids", "attention_mask", "pixel_values", "labels")}
    output = model(**inputs, visual_targets_mask=whole["visual_targets_mask"])
    for kind in ("text", "visual"):
        loss = getattr(output, f"{kind}_loss")
        (gradient,) = torch.autograd.grad(loss, output.last_hidden_state, retain_graph=True)
        assert logged[f"train/{kind}_grad_norm"] == pytest.approx(float(gradient.norm()), rel=1e-3)


def test_a_step_without_pictures_learns_text_alone():
    module, logged = train(batches([documents()[2]], 1), gradient_norm_interval=1)
    assert "train/visual_loss" not in logged and logged["train/visual_grad_norm"] == 0
    assert all(parameter.isfinite().all() for parameter in module.parameters())


def test_the_tower_is_frozen_and_a_negative_weight_refused():
    module = UnifiedTuning(TINY)
    module.configure_model()
    assert {row["part"] for row in module.parameter_parts() if row["mode"] == "frozen"} == {"visual"}
    with pytest.raises(UserError, match="visual_loss_weight"):
        UnifiedTuning(TINY, visual_loss_weight=-1.0)
