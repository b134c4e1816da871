import pickle
import random

import pytest

from emu2_lit.errors import UserError
from emu2_lit.model.configuration import TINY_VOCAB_SIZE
from emu2_lit.model.segments import Segment, parse_prompt, render
from emu2_lit.model.special_tokens import special_token_ids
from emu2_lit.model.tiny_tokenizer import tiny_tokenizer_model
from emu2_lit.model.tokenizer import Emu2Tokenizer
from tests.golden_data import FOLDER, golden
from tests.model.processor_cases import both, golden_processor, llama_tokenizer_file, recorded, tiny_processor

WORDS = (
    "a", "dog", "The", "digit", "seven?", "5721", "café", "naïve", "日本語", "Привет", "שלום", "🙂", "👩‍👩‍👧", "𓀀",
    " ", "  ", "\n", "\n\n", "\t", "\u00a0", "\u3000", "\u200b", ".", ",", "<", "[", "]", "/", "▁", "\x00", "\ufffd",
    "e\u0301", "x" * 40,
)  # fmt: skip
TOKENS = ("[VIDEO]", "<grounding>", "<phrase>", "</phrase>", "<patch_index_0012>", "[USER]", "[ASSISTANT]", "</s>")


def random_segments(rng: random.Random) -> list[Segment]:
    """Texts, some of them empty or learned, tokens and pictures in any order."""
    segments = []
    for _ in range(rng.randrange(1, 9)):
        kind = rng.choice(["text", "text", "text", "token", "image", "frame"])
        text = {
            "text": "".join(rng.choices(WORDS, k=rng.randrange(7))),
            "token": rng.choice(TOKENS),
        }.get(kind, "")
        segments.append(Segment(kind, text, learn=rng.random() < 0.4))
    return segments


def tokenizers():
    return [tiny_processor().tokenizer, golden_processor("chat").tokenizer]


# -- ids -----------------------------------------------------------------------------------------------------
@both
def test_ids_and_texts_of_the_published_tokenizer(name):
    expected = recorded("real_tokenizer", "expected.json")[name]
    tokenizer = Emu2Tokenizer.from_sentencepiece(llama_tokenizer_file(), chat=name == "chat")
    assert tokenizer.vocab_size == expected["vocab_size"]
    assert {token: tokenizer.token_to_id(token) for token in expected["special_ids"]} == expected["special_ids"]
    texts = [case["text"] for case in expected["cases"]]
    ids = tokenizer(texts)["input_ids"]
    assert ids == [case["ids"] for case in expected["cases"]]
    assert tokenizer.batch_decode(ids) == [case["decoded"] for case in expected["cases"]]


@both
def test_special_ids_follow_the_pieces_of_any_sentencepiece_model(name):
    expected = recorded(name, "expected.json")
    tokenizer = golden_processor(name).tokenizer
    assert tokenizer.vocab_size == expected["vocab_size"]
    assert {token: tokenizer.special_ids[token] for token in expected["special_ids"]} == expected["special_ids"]
    assert tokenizer.pad_id == expected["special_ids"]["[PAD]"]
    assert sorted(tokenizer.special_ids.values()) == [0, 1, 2, *range(420, expected["vocab_size"])]


def test_published_special_ids():
    chat = special_token_ids(32000, chat=True)
    assert (chat["[IMG]"], chat["<image>"], chat["[gIMG]"], chat["[VIDEO]"]) == (32001, 32003, 32004, 32007)
    assert (chat["<patch_index_0224>"], chat["[USER]"], chat["[ASSISTANT]"]) == (32239, 32272, 32273)
    assert "[USER]" not in special_token_ids(32000, chat=False)


def test_segments_give_the_ids_of_the_rendered_string():
    rng = random.Random(0)
    for tokenizer in tokenizers():
        for _ in range(400):
            segments = random_segments(rng)
            text = render(segments)
            ids, learned = tokenizer.encode_segments(segments, image_tokens=3, frame_tokens=2)
            spelt = text.replace("[<IMG_PLH>]", "[IMG]<image><image><image>[/IMG]")
            spelt = spelt.replace("[<VID_PLH>]", "[IMG][gIMG][gIMG][/IMG]")
            assert ids == tokenizer(spelt)["input_ids"], text
            assert ids == tokenizer.encode_segments(parse_prompt(text), 3, 2)[0], text
            assert len(learned) == len(ids)


def test_segments_give_the_ids_of_the_rendered_string_in_the_published_vocabulary():
    tokenizer, rng = Emu2Tokenizer.from_sentencepiece(llama_tokenizer_file(), chat=True), random.Random(1)
    for _ in range(400):
        segments = random_segments(rng)
        assert tokenizer.encode_segments(segments)[0] == tokenizer.encode_segments(parse_prompt(render(segments)))[0]


@pytest.mark.parametrize(
    "text", ["</s>", "[IMG]", "<image>", "a [USER]: b", "[<IMG_PLH>]", "<s>", "<unk>", "<0x41>", "<patch_index_0003>"]
)
def test_special_strings_in_plain_text_stay_text(text):
    tokenizer = tiny_processor().tokenizer
    ids, _ = tokenizer.encode_segments([Segment("text", text)])
    assert not set(ids[1:]) & set(tokenizer.special_ids.values())
    assert tokenizer.decode(ids) == text


def test_special_strings_of_a_raw_prompt_are_tokens():
    tokenizer = tiny_processor().tokenizer
    ids = tokenizer("[IMG]<image>[/IMG]</s>[USER]")["input_ids"]
    assert [tokenizer.id_to_token(i) for i in ids] == ["<s>", "[IMG]", "<image>", "[/IMG]", "</s>", "[USER]"]


def test_without_role_tokens_roles_are_text_and_cannot_be_asked_for():
    tokenizer = tiny_processor(chat=False).tokenizer
    assert tokenizer.decode(tokenizer("[USER]: hi")["input_ids"]) == "[USER]: hi"
    with pytest.raises(UserError, match="chat=True"):
        tokenizer.encode_segments([Segment("token", "[USER]")])


def test_an_unknown_token_is_an_error():
    with pytest.raises(UserError, match="'<nothing>'"):
        tiny_processor().tokenizer.encode_segments([Segment("token", "<nothing>")])


def test_half_an_emoji_is_encoded_as_a_question_mark():
    tokenizer = tiny_processor().tokenizer
    ids, learned = tokenizer.encode_segments([Segment("text", "a\ud83d", learn=True)])
    assert tokenizer.decode(ids) == "a?" and learned == [False] + [True] * (len(ids) - 1)


# -- what is learned -----------------------------------------------------------------------------------------
def expected_flags(tokenizer: Emu2Tokenizer, text: str, learned: list[bool]) -> list[bool]:
    """Found another way: walk the pieces' own spelling along the bytes of the text."""
    marks = [learned[0]] * 3 + [flag for char, flag in zip(text, learned, strict=True) for _ in spelling(char)]
    flags, place = [], 0
    for id_ in tokenizer(text)["input_ids"][1:]:
        piece = tokenizer.id_to_token(id_)
        size = 1 if piece.startswith("<0x") else len(piece.encode())
        flags.append(any(marks[place : place + size]))
        place += size
    assert place == len(marks)
    return flags


def spelling(char: str) -> bytes:
    return ("▁" if char == " " else char).encode()


def test_a_piece_that_holds_a_learned_character_is_learned():
    rng = random.Random(2)
    for tokenizer in tokenizers():
        for _ in range(300):
            parts = ["".join(rng.choices(WORDS, k=rng.randrange(4))) for _ in range(5)]
            segments = [Segment("text", part, learn=rng.random() < 0.5) for part in parts]
            text = "".join(parts)
            if not text:
                continue
            flags = [segment.learn for segment in segments for _ in segment.text]
            assert tokenizer.encode_segments(segments)[1] == [False, *expected_flags(tokenizer, text, flags)], parts


def test_every_byte_of_a_learned_emoji_is_learned():
    tokenizer = tiny_processor().tokenizer
    ids, learned = tokenizer.encode_segments(
        [Segment("text", "a dog "), Segment("text", "🙂", True), Segment("text", "!")]
    )
    assert "".join(tokenizer.id_to_token(i) for i, flag in zip(ids, learned, strict=True) if flag) == (
        "<0xF0><0x9F><0x99><0x82>"
    )


def test_of_a_learned_picture_its_end_is_not():
    ids, learned = tiny_processor().encode_segments(
        [Segment("image", learn=True), Segment("token", "</s>", learn=True)]
    )
    assert learned == [False, True, True, True, True, True, False, True]
    assert len(ids) == len(learned)


# -- text ----------------------------------------------------------------------------------------------------
@both
def test_kept_special_tokens_are_written_as_the_published_code_does(name):
    reference = golden(name)
    batch = reference.processor(text=reference.expected["interleaved_texts"], images=reference.images)
    rows = reference.model.generate(**batch, num_beams=3, length_penalty=-1, max_new_tokens=12).tolist()
    texts = reference.processor.batch_decode([[1, *row] for row in rows], skip_special_tokens=False)
    assert texts == reference.expected["generate_beam3_raw"]


def test_text_survives_the_way_there_and_back():
    rng = random.Random(3)
    for tokenizer in tokenizers():
        for _ in range(200):
            text = "".join(rng.choices(WORDS, k=8)).strip().replace("▁", "").replace("\x00", "")
            assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


# -- files ---------------------------------------------------------------------------------------------------
def test_goes_to_loader_workers():
    tokenizer = tiny_processor().tokenizer
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy("[USER]: a dog 🙂") == tokenizer("[USER]: a dog 🙂") and copy.chat


def test_a_saved_tokenizer_is_read_by_transformers_too(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = tiny_processor().tokenizer
    tokenizer.save_pretrained(tmp_path)
    again = Emu2Tokenizer.from_sentencepiece(tmp_path, chat=True)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert again.special_ids == tokenizer.special_ids
    assert len(theirs) == tokenizer.vocab_size and theirs.padding_side == "left"
    assert {token: theirs.convert_tokens_to_ids(token) for token in tokenizer.special_ids} == tokenizer.special_ids
    assert theirs.pad_token_id == tokenizer.pad_id


def test_files_that_are_no_tokenizer(tmp_path):
    with pytest.raises(UserError, match="no SentencePiece model here"):
        Emu2Tokenizer.from_sentencepiece(tmp_path, chat=True)
    (tmp_path / "tokenizer.model").write_bytes(b"not a model")
    with pytest.raises(UserError, match="not a SentencePiece model"):
        Emu2Tokenizer.from_sentencepiece(tmp_path, chat=True)


def test_the_tiny_tokenizer_is_the_same_each_time_and_short():
    tokenizer = Emu2Tokenizer(tiny_tokenizer_model(), chat=True)
    assert tokenizer.base_vocab_size == TINY_VOCAB_SIZE
    assert tiny_tokenizer_model.__wrapped__() == tiny_tokenizer_model()
    assert len(tokenizer("which digit is written here?")["input_ids"]) < 10
    assert tokenizer("77")["input_ids"][-2:] == [tokenizer("7")["input_ids"][-1]] * 2, "digits stand apart"


def test_tiny_and_published_tokenizers_have_one_structure():
    ours = Emu2Tokenizer(tiny_tokenizer_model(), chat=False)
    reference = Emu2Tokenizer((FOLDER / "base" / "tokenizer_dir" / "tokenizer.model").read_bytes(), chat=False)
    for text in ("a  dog", "\n a", "日本", "é\t"):
        assert ours.decode(ours(text)["input_ids"]) == reference.decode(reference(text)["input_ids"]) == text
    assert [ours.id_to_token(i) for i in range(259)] == [reference.id_to_token(i) for i in range(259)]
