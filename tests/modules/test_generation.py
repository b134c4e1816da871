"""The generation module: golden loss, only the last picture is learned, cosines by position."""

import pytest
import torch
from lightning import Trainer
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.testing import assert_close

from emu2_lit.model import Emu2Config, Emu2ForConditionalGeneration, Emu2Processor
from emu2_lit.modules import GenerationTuning
from emu2_lit.modules.generation import PositionCosine
from emu2_lit.settings import LoraSettings, OptimizerSettings
from tests.golden_data import golden

TINY = Emu2Config.preset("tiny")


def batch_of(prompts: list[str], pictures: int, seed: int = 0) -> dict:
    """Prompts whose last picture is to be drawn, with random pictures."""
    processor = Emu2Processor.for_config(TINY)
    size = TINY.vision_config.image_size
    pixels = torch.randn(pictures, 3, size, size, generator=torch.Generator().manual_seed(seed))
    rows = processor.tokenizer(prompts)["input_ids"]
    ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=processor.tokenizer.pad_id)
    attention = (ids != processor.tokenizer.pad_id).long()
    slots = ids == TINY.special_ids["<image>"]
    mask = slots & (slots.flip(1).cumsum(1).flip(1) <= TINY.n_query)
    return dict(
        input_ids=ids, attention_mask=attention, pixel_values=pixels, visual_targets_mask=mask,
        labels=torch.full_like(ids, -100),
    )  # fmt: skip


def picture() -> str:
    return "[IMG]" + "<image>" * TINY.n_query + "[/IMG]"


def fit(batches, **settings):
    torch.manual_seed(0)
    module = GenerationTuning(
        Emu2ForConditionalGeneration(TINY), optimizer=OptimizerSettings(lr=1e-3, warmup_steps=1), **settings
    )
    trainer = Trainer(
        max_steps=len(batches), accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1, check_val_every_n_epoch=None,
        val_check_interval=len(batches), num_sanity_val_steps=0,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(batches, batch_size=None)
    trainer.fit(module, loader, loader)
    return module, trainer.callback_metrics


@pytest.mark.parametrize("name", ["base", "chat"])
def test_the_loss_is_that_recorded(name):
    reference = golden(name)
    expected = reference.objective["generation"]
    batch = reference.processor(text=[expected["text"]], images=reference.images[:2])
    mask = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
    mask[0, [position + 1 for position in expected["predicting_positions"]]] = True
    module = GenerationTuning(reference.model, reference.processor)
    module.configure_model()
    module.eval()
    loss, targets = module.losses({**batch, "visual_targets_mask": mask})["visual"]
    assert float(loss) == pytest.approx(expected["visual_mse_mean"], abs=1e-4)
    assert int(targets) == len(expected["predicting_positions"])
    cosines = module.val_cosine.compute()
    assert_close(
        cosines, torch.tensor(expected["cosine_per_position"]).view(-1, len(cosines)).mean(0), atol=1e-4, rtol=0
    )


def test_pictures_of_the_prompt_are_not_learned():
    """Predicting them worse or better changes nothing; the last one does."""
    batch = batch_of([f"a cat {picture()} on a mat {picture()}"], 2)
    torch.manual_seed(0)
    module = GenerationTuning(Emu2ForConditionalGeneration(TINY))
    module.configure_model()
    module.eval()
    (loss, targets) = module.losses(batch)["visual"]
    assert int(targets) == TINY.n_query
    features = module.model.encode_image(batch["pixel_values"])
    output = module.model(**module.inputs(batch), visual_targets_mask=batch["visual_targets_mask"], all_logits=True)
    assert_close(loss, F.mse_loss(output.regression, features[1]))
    assert_close(output.regression_targets, features[1])


def test_the_vocabulary_is_neither_computed_nor_trained():
    batch = batch_of([f"a cat {picture()}"], 1)
    module, _ = fit([batch])
    assert module.model(**module.inputs(batch), visual_targets_mask=batch["visual_targets_mask"]).logits is None
    trained = {row["part"] for row in module.parameter_parts() if row["mode"] == "full"}
    assert trained == {"lm", "embeddings", "project_up", "project_down"}


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=4, dropout=0.0)])
def test_a_picture_is_learned_and_its_cosine_rises(lora):
    batch = batch_of([f"a cat {picture()}", f"one more dog {picture()}"], 2)
    _, few = fit([batch] * 2, lora=lora)
    _, many = fit([batch] * 60, lora=lora)
    assert many["val/loss"] < few["val/loss"] and many["val/cosine"] > few["val/cosine"]
    positions = torch.stack([many[f"val/cosine_position_{place:02d}"] for place in range(TINY.n_query)])
    assert_close(positions.mean(), many["val/cosine"])
    assert 0 < many["train/cosine"] <= 1


def test_position_cosines_are_means_over_pictures():
    metric = PositionCosine(2)
    true = torch.tensor([[1.0, 0], [1, 0], [1, 0], [1, 0]])
    metric.update(torch.tensor([[2.0, 0], [0, 1], [3, 0], [1, 0]]), true)
    metric.update(torch.tensor([[0.0, 5], [1, 0]]), true[:2])
    assert_close(metric.compute(), torch.tensor([2 / 3, 2 / 3]))
