"""Every recorded figure of the published code is reproduced, in float32 within 1e-4."""

import pytest
import torch
from torch.testing import assert_close

from emu2_lit.model.objective import unified_targets
from tests.golden_data import golden

close = pytest.mark.parametrize("name", ["base", "chat"])
TOLERANCE = dict(rtol=0, atol=1e-4)


def interleaved(reference):
    return reference.processor(text=reference.expected["interleaved_texts"], images=reference.images)


@close
@torch.no_grad()
def test_vision_features_and_pooling(name):
    reference = golden(name)
    pixels = reference.processor(text=["[<IMG_PLH>]" * 4], images=reference.images)["pixel_values"]
    assert_close(pixels, reference.tensors["pixels"], **TOLERANCE)
    assert_close(reference.model.visual(pixels), reference.tensors["vision_features"], **TOLERANCE)
    assert_close(reference.model.encode_image(pixels), reference.tensors["encode_image"], **TOLERANCE)
    pooled = reference.model.encode_image(pixels, n_query=reference.config.v_query)
    assert_close(pooled, reference.tensors["encode_video"], **TOLERANCE)


@close
@torch.no_grad()
def test_logits_hidden_states_and_regression(name):
    reference = golden(name)
    batch = interleaved(reference)
    assert_close(batch["input_ids"], reference.tensors["interleaved_input_ids"])
    assert_close(batch["attention_mask"], reference.tensors["interleaved_attention_mask"])
    output = reference.model(**batch, output_hidden_states=True)
    real = batch["attention_mask"].bool()
    for got, key in (
        (output.logits, "logits"),
        (output.hidden_states[-1], "hidden"),
        (output.regression, "regression"),
        (reference.model.project_down(output.hidden_states[-1]), "regression"),
    ):
        assert_close(got[real], reference.tensors[f"interleaved_{key}"][real], **TOLERANCE)


@close
@pytest.mark.parametrize(
    ("key", "text", "pictures"),
    [
        ("text_only", "a photo of a dog", 0),
        ("with_prompt_images", "[<IMG_PLH>]a dog on the[<IMG_PLH>]", 2),
        ("null", "", 0),
    ],
)
def test_generate_image(name, key, text, pictures):
    reference = golden(name)
    batch = reference.processor(text=[text], images=reference.images[:pictures] or None)
    assert_close(reference.model.generate_image(**batch), reference.tensors[f"generate_image_{key}"], **TOLERANCE)


@close
def test_generate_image_in_a_left_padded_batch(name):
    reference = golden(name)
    batch = reference.processor(
        text=["a photo of a dog", "[<IMG_PLH>]a dog on the[<IMG_PLH>]", ""], images=reference.images[:2]
    )
    keys = ("text_only", "with_prompt_images", "null")
    expected = torch.cat([reference.tensors[f"generate_image_{key}"] for key in keys])
    assert_close(reference.model.generate_image(**batch), expected, **TOLERANCE)


@close
@pytest.mark.parametrize(("key", "arguments"), [("beam5", dict(num_beams=5, length_penalty=-1)), ("greedy", {})])
def test_generated_texts(name, key, arguments):
    reference = golden(name)
    ids = reference.model.generate(**interleaved(reference), max_new_tokens=12, do_sample=False, **arguments)
    texts = reference.processor.batch_decode(ids, skip_special_tokens=True)
    assert [text.strip() for text in texts] == [text.strip() for text in reference.expected[f"generate_{key}"]]


def unified_batch(reference):
    pad = reference.config.special_ids["[PAD]"]
    ids = torch.tensor(reference.objective["unified"]["input_ids"])
    batch = reference.processor(text=reference.objective["unified"]["texts"], images=reference.images)
    assert_close(batch["input_ids"], ids)
    assert_close(batch["attention_mask"], (ids != pad).long())
    return batch


@close
def test_unified_targets_position_by_position(name):
    reference = golden(name)
    batch = unified_batch(reference)
    labels, visual = unified_targets(batch["input_ids"], batch["attention_mask"], reference.config.special_ids)
    predicts = torch.full_like(labels, ord("n"))
    predicts[:, :-1][labels[:, 1:] != -100] = ord("t")
    predicts[:, :-1][visual[:, 1:]] = ord("v")
    predicts[batch["attention_mask"] == 0] = ord("p")
    kinds = [[ord(kind[0]) for kind in row] for row in reference.objective["unified"]["target_kind"]]
    assert predicts.tolist() == kinds


@close
@torch.no_grad()
def test_unified_losses(name):
    reference = golden(name)
    batch, expected = unified_batch(reference), reference.objective["unified"]
    labels, visual = unified_targets(batch["input_ids"], batch["attention_mask"], reference.config.special_ids)
    output = reference.model(**batch, labels=labels, visual_targets_mask=visual)
    assert int(output.text_targets) == expected["text_targets"]
    assert int(output.visual_targets) == expected["visual_targets"]
    assert float(output.text_loss) == pytest.approx(expected["text_ce_mean"], abs=1e-4)
    assert float(output.visual_loss) == pytest.approx(expected["visual_mse_mean"], abs=1e-4)
    features = reference.model.encode_image(batch["pixel_values"]).flatten(0, 1)
    per_target = (output.regression - features).square().mean(-1)
    assert_close(per_target, torch.tensor(expected["visual_mse_per_target"]), **TOLERANCE)


@close
@torch.no_grad()
def test_generation_objective_regresses_the_last_picture_only(name):
    reference = golden(name)
    expected = reference.objective["generation"]
    batch = reference.processor(text=[expected["text"]], images=reference.images[:2])
    assert batch["input_ids"].tolist() == expected["input_ids"]
    mask = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
    mask[0, [position + 1 for position in expected["predicting_positions"]]] = True
    output = reference.model(**batch, visual_targets_mask=mask)
    assert float(output.visual_loss) == pytest.approx(expected["visual_mse_mean"], abs=1e-4)
    target = reference.model.encode_image(batch["pixel_values"])[-1]
    cosine = torch.cosine_similarity(output.regression, target, dim=-1)
    assert_close(cosine, torch.tensor(expected["cosine_per_position"]), **TOLERANCE)


@torch.no_grad()
def test_chat_loss():
    reference = golden("chat")
    expected = reference.objective["chat"]
    batch = reference.processor(text=[expected["text"]], images=reference.images[:2])
    assert batch["input_ids"].tolist() == expected["input_ids"]
    output = reference.model(**batch, labels=torch.tensor(expected["labels"]))
    assert int(output.text_targets) == expected["supervised"]
    assert float(output.text_loss) == pytest.approx(expected["loss"], abs=1e-4)


def test_slots_and_embeddings_must_agree():
    reference = golden("chat")
    batch = interleaved(reference)
    with pytest.raises(ValueError, match="visual slots"):
        reference.model(input_ids=batch["input_ids"], pixel_values=batch["pixel_values"][:-1])


@close
def test_whole_chats(name):
    """Five beams, length penalty -1, 12 new tokens; the prompts themselves are compared in test_chat_template.py."""
    reference = golden(name)
    inputs = {
        "chat": dict(text=[reference.expected["chat_prompt"]], images=reference.images[:2]),
        "video": dict(text=[reference.expected["video_prompt"]], videos=reference.images[:2]),
        "plain": dict(text=["[<IMG_PLH>]a red circle.[<IMG_PLH>]"], images=reference.images[:2]),
    }
    for kind, given in inputs.items():
        ids = reference.model.generate(
            **reference.processor(**given), num_beams=5, length_penalty=-1, max_new_tokens=12, do_sample=False
        )
        text = reference.processor.batch_decode(ids)[0]
        assert text.strip() == reference.expected[f"{kind}_output"].strip(), kind
