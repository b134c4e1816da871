import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.testing import assert_close

from emu2_lit.errors import UserError
from emu2_lit.model import Emu2Config, Emu2Processor
from emu2_lit.model.segments import Segment
from tests.golden_data import FOLDER, golden_config
from tests.model.processor_cases import both, golden_images, golden_processor, recorded, tiny_processor

PICTURE = Image.new("RGB", (8, 8), "red")


# -- the reference -------------------------------------------------------------------------------------------
@both
def test_recorded_ids_mask_and_pixels(name):
    expected = load_file(FOLDER / name / "expected.safetensors")
    texts = recorded(name, "expected.json")["interleaved_texts"]
    batch = golden_processor(name)(text=texts, images=golden_images(name))
    assert_close(batch["input_ids"], expected["interleaved_input_ids"])
    assert_close(batch["attention_mask"], expected["interleaved_attention_mask"])
    assert_close(batch["pixel_values"], expected["pixels"], rtol=0, atol=1e-4)


# -- batches -------------------------------------------------------------------------------------------------
def test_prompts_are_padded_on_the_left():
    processor = tiny_processor()
    batch = processor(text=["a", "which digit is written here?"])
    ids, mask = batch["input_ids"], batch["attention_mask"]
    assert ids.dtype == mask.dtype == torch.int64
    padding = int((mask[0] == 0).sum())
    assert ids[0, :padding].tolist() == [processor.tokenizer.pad_id] * padding
    assert ids[0, padding] == ids[1, 0] == 1, "each begins with <s>"
    assert mask[0].tolist() == [0] * padding + [1] * (len(mask[0]) - padding) and mask[1].all()
    assert set(batch) == {"input_ids", "attention_mask"}


def test_rows_can_be_padded_on_the_right():
    batch = tiny_processor().pad([[1, 5], [1]], side="right")
    assert batch["input_ids"].tolist() == [[1, 5], [1, tiny_processor().tokenizer.pad_id]]
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]


def test_one_text_and_one_picture_need_no_lists():
    batch = tiny_processor()("[<IMG_PLH>]a", images=PICTURE)
    assert batch["pixel_values"].shape == (1, 3, 56, 56) and len(batch["input_ids"]) == 1


def test_pictures_and_frames_go_apart():
    processor = tiny_processor()
    text = ["[<IMG_PLH>]a[VIDEO][<VID_PLH>][<VID_PLH>]", "[<IMG_PLH>][<VID_PLH>]"]
    batch = processor(text=text, images=[[PICTURE], [PICTURE]], videos=[[PICTURE, PICTURE], [PICTURE]])
    assert batch["pixel_values"].shape == (2, 3, 56, 56)
    assert batch["video_pixel_values"].shape == (3, 3, 56, 56)
    ids = processor.tokenizer.special_ids
    assert (batch["input_ids"] == ids["<image>"]).sum() == 2 * processor.n_query
    assert (batch["input_ids"] == ids["[gIMG]"]).sum() == 3 * processor.v_query


@pytest.mark.parametrize(
    ("text", "given", "reason"),
    [
        ("[<IMG_PLH>][<IMG_PLH>]", dict(images=[PICTURE]), "2 image placeholders in the text, 1 images given"),
        ("hi", dict(images=[PICTURE] * 3), "0 image placeholders in the text, 3 images given"),
        ("[<IMG_PLH>]", {}, "1 image placeholders in the text, 0 images given"),
        ("[<VID_PLH>]", dict(videos=[[PICTURE] * 2]), "1 frame placeholders in the text, 2 frames given"),
        ("[<VID_PLH>]", dict(images=[PICTURE]), "0 image placeholders in the text, 1 images given"),
    ],
)
def test_placeholders_and_pictures_must_agree(text, given, reason):
    with pytest.raises(UserError, match=reason):
        tiny_processor()(text=[text], **given)


def test_a_picture_that_cannot_be_read_is_the_users_error(tmp_path):
    with pytest.raises(UserError, match="nowhere.png: no such file"):
        tiny_processor()(text=["[<IMG_PLH>]"], images=[tmp_path / "nowhere.png"])


def test_special_strings_are_tokens_in_raw_prompts_only():
    processor, text = tiny_processor(), "a</s>[USER][<IMG_PLH>]"
    read = processor(text=[text], images=[PICTURE])["input_ids"][0].tolist()
    plain, _ = processor.encode_segments([Segment("text", text)])
    assert {2, processor.tokenizer.token_to_id("[USER]"), processor.tokenizer.token_to_id("[IMG]")} <= set(read)
    assert set(plain) & set(processor.tokenizer.special_ids.values()) == {1}
    assert processor.decode(plain) == text


# -- folders -------------------------------------------------------------------------------------------------
def assert_same(got: Emu2Processor, expected: Emu2Processor) -> None:
    for key in ("n_query", "v_query", "image_size"):
        assert getattr(got, key) == getattr(expected, key)
    assert got.tokenizer.special_ids == expected.tokenizer.special_ids
    assert got.config.to_dict() == expected.config.to_dict()
    text = "[USER]: a dog 🙂</s>"
    assert got(text=[text])["input_ids"].tolist() == expected(text=[text])["input_ids"].tolist()


@pytest.mark.parametrize("make", [lambda: golden_processor("base"), lambda: golden_processor("chat"), tiny_processor])
def test_saved_and_read_again(make, tmp_path):
    make().save_pretrained(tmp_path)
    assert_same(Emu2Processor.from_pretrained(tmp_path), make())


@both
@pytest.mark.parametrize("tokenizer", [".", "tokenizer"])  # Emu2-Gen keeps it in a folder of its own
def test_a_published_folder(name, tokenizer, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(golden_config(name).baai_dict()))
    (tmp_path / tokenizer).mkdir(exist_ok=True)
    shutil.copy(FOLDER / name / "tokenizer_dir" / "tokenizer.model", tmp_path / tokenizer)
    processor, expected = Emu2Processor.from_pretrained(tmp_path), golden_processor(name)
    assert (processor.n_query, processor.v_query) == (expected.n_query, expected.v_query)
    assert processor.image_size == expected.image_size
    assert processor.tokenizer.special_ids == expected.tokenizer.special_ids


def test_folders_that_lack_something(tmp_path):
    with pytest.raises(UserError, match="neither processor_config.json nor config.json"):
        Emu2Processor.from_pretrained(tmp_path)
    tiny_processor().save_pretrained(tmp_path)
    (tmp_path / "tokenizer.model").unlink()
    with pytest.raises(UserError, match="no SentencePiece model here"):
        Emu2Processor.from_pretrained(tmp_path)
    (tmp_path / "processor_config.json").write_text("{")
    with pytest.raises(UserError, match="processor_config.json: not valid JSON"):
        Emu2Processor.from_pretrained(tmp_path)


# -- vocabularies --------------------------------------------------------------------------------------------
def test_tokenizer_and_model_must_belong_together():
    file = FOLDER / "base" / "tokenizer_dir" / "tokenizer.model"
    with pytest.raises(UserError, match="420 pieces"):
        Emu2Processor.from_sentencepiece(file, config=Emu2Config.preset("tiny"))
    with pytest.raises(UserError, match="chat"):
        Emu2Processor.from_sentencepiece(file, config=golden_config("base"), chat=True)


def test_only_small_presets_bring_their_tokenizer():
    assert Emu2Processor.for_config(Emu2Config.preset("small")).tokenizer.base_vocab_size == 480
    with pytest.raises(UserError, match="needs its tokenizer"):
        Emu2Processor.for_config(Emu2Config.preset("emu2-chat"))


def test_role_tokens_can_be_added():
    base, chat = tiny_processor(chat=False), tiny_processor()
    assert chat.tokenizer.vocab_size == base.tokenizer.vocab_size + 2
    assert chat.config.text_config.vocab_size == base.config.text_config.vocab_size + 2
    assert [chat.tokenizer.special_ids[t] for t in ("[USER]", "[ASSISTANT]")] == [752, 753]
