"""Encoders of pictures: their preparation against the libraries' own, and what is refused."""

import json

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from skimage import data
from torch.testing import assert_close
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from emu2_lit.errors import UserError
from emu2_lit.evaluation.encoders import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ClipEncoder,
    DinoEncoder,
    TowerEncoder,
    cropped,
    open_judges,
)
from emu2_lit.model import Emu2Config, Emu2ForConditionalGeneration, Emu2Processor
from emu2_lit.model.images import pixel_values
from emu2_lit.settings import EncoderSettings

SMALL = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, patch_size=16)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two pictures that stand, lie, and differ in size."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, size in (("lying", (320, 256)), ("standing", (300, 480))):
        Image.fromarray(data.astronaut()).resize(size).save(folder / f"{name}.png")
    return [folder / "lying.png", folder / "standing.png"]


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("dino")
    ViTModel(ViTConfig(**SMALL), add_pooling_layer=False).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    words = ["<|startoftext|>", "<|endoftext|>", *"abcdefghijklmnopqrstuvwxyz"]
    words += [f"{letter}</w>" for letter in "abcdefghijklmnopqrstuvwxyz"]
    text = dict(SMALL, vocab_size=len(words), max_position_embeddings=16, bos_token_id=0, eos_token_id=1)
    text.pop("patch_size")
    CLIPModel(CLIPConfig(text_config=text, vision_config=dict(SMALL, image_size=64), projection_dim=8)).save_pretrained(
        folder
    )
    (folder / "vocab.json").write_text(json.dumps({word: place for place, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    return folder


def prepared(paths, **settings):
    """The same by the library's processor."""
    processor = CLIPImageProcessorPil(**settings)
    return processor([Image.open(path).convert("RGB") for path in paths], return_tensors="pt")["pixel_values"]


def test_dino_is_prepared_as_published(pictures):
    expected = prepared(
        pictures, size={"shortest_edge": 256}, crop_size=224, image_mean=IMAGENET_MEAN, image_std=IMAGENET_STD
    )  # fmt: skip
    ours = [cropped(Image.open(path), 256, 224, IMAGENET_MEAN, IMAGENET_STD) for path in pictures]
    assert_close(torch.stack(ours), expected, atol=1e-4, rtol=0)


def test_dino_is_the_class_token(dino, pictures):
    vectors = DinoEncoder(dino).pictures(pictures)
    pixels = [cropped(Image.open(path), 256, 224, IMAGENET_MEAN, IMAGENET_STD) for path in pictures]
    with torch.no_grad():
        hidden = ViTModel.from_pretrained(dino, add_pooling_layer=False).eval()(torch.stack(pixels)).last_hidden_state
    assert_close(vectors, F.normalize(hidden[:, 0], dim=1))
    assert_close(vectors.norm(dim=1), torch.ones(2))


def test_clip_is_that_of_transformers(clip, pictures):
    encoder = ClipEncoder(clip)
    model = CLIPModel.from_pretrained(clip).eval()
    pixels = prepared(pictures, size={"shortest_edge": 64}, crop_size=64)
    texts = ["a cat", "a word that is far too long for this small model"]
    ids = encoder.tokenizer(texts, padding=True, truncation=True, max_length=16, return_tensors="pt")
    with torch.no_grad():
        out = model(pixel_values=pixels, **ids)
    assert_close(encoder.pictures(pictures), out.image_embeds, atol=1e-4, rtol=1e-3)
    assert_close(encoder.texts(texts), out.text_embeds, atol=1e-5, rtol=1e-4)


def test_the_tower_is_the_models_own(pictures):
    torch.manual_seed(0)
    config = Emu2Config.preset("tiny")
    model, processor = Emu2ForConditionalGeneration(config).eval(), Emu2Processor.for_config(config)
    given = [*pictures, Image.open(pictures[0])]
    pixels = torch.stack([pixel_values(Image.open(path), processor.image_size) for path in pictures])
    with torch.no_grad():
        expected = F.normalize(model.encode_image(pixels).mean(dim=1), dim=1)
    vectors = TowerEncoder(model, processor).pictures(given)
    assert_close(vectors[:2], expected)
    assert_close(vectors[2], vectors[0])


def test_judges_are_what_the_settings_name(dino, clip):
    config = Emu2Config.preset("tiny")
    model, processor = Emu2ForConditionalGeneration(config), Emu2Processor.for_config(config)
    judges = open_judges(EncoderSettings(dino=str(dino), clip=str(clip)), model, processor, "cpu")
    assert [one.picture_metric for one in judges.encoders] == ["dino", "clip_i", "embedding_cosine"]
    assert judges.left_out == {}
    nothing = open_judges(EncoderSettings(tower=False), model, processor, "cpu")
    assert not nothing.encoders and set(nothing.left_out) == {"dino", "clip_i, clip_t"}


@pytest.mark.parametrize("kind", [DinoEncoder, ClipEncoder])
def test_weights_that_are_not_there(kind, tmp_path):
    with pytest.raises(UserError, match="nobody/nothing"):
        kind("nobody/nothing")
    with pytest.raises(UserError, match="cannot be read as"):
        kind(tmp_path)


def test_another_models_weights_are_refused(dino, clip):
    with pytest.raises(UserError, match="cannot be read as ViTModel"):
        DinoEncoder(clip)
    with pytest.raises(UserError, match="cannot be read as CLIPModel"):
        ClipEncoder(dino)


def test_a_damaged_picture_is_named(dino, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match="bad.jpg"):
        DinoEncoder(dino).pictures([tmp_path / "bad.jpg"])
