"""The tokens that Emu2 adds to LLaMA's vocabulary, in the order of their ids (published tokenizer)."""

BOS, EOS, UNK = "<s>", "</s>", "<unk>"
PAD = "[PAD]"
BOI, EOI, IMAGE = "[IMG]", "[/IMG]", "<image>"
FRAME = "[gIMG]"  # made for generation; the published code uses it as the slot of a video frame
VIDEO = "[VIDEO]"
GROUNDING = "<grounding>"
PHRASE_BEGIN, PHRASE_END = "<phrase>", "</phrase>"
OBJECT_BEGIN, OBJECT_END = "<object>", "</object>"
NEXT_OBJECT = "</delimiter_of_multi_objects/>"
USER, ASSISTANT = "[USER]", "[ASSISTANT]"
LOCATIONS = 257  # registered; boxes use 0..224
IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER = "[<IMG_PLH>]", "[<VID_PLH>]"  # plain strings, not tokens


def location_token(index: int) -> str:
    """The token of a coordinate, 0..256."""
    return f"<patch_index_{index:04d}>"


ADDED_TOKENS = (
    PAD, BOI, EOI, IMAGE, FRAME, "[/gIMG]", "[EOC]", VIDEO, GROUNDING, PHRASE_BEGIN, PHRASE_END, OBJECT_BEGIN,
    OBJECT_END, NEXT_OBJECT, "<REC>", *(location_token(i) for i in range(LOCATIONS)),
)  # fmt: skip
CHAT_TOKENS = (USER, ASSISTANT)


def special_token_ids(base_vocab_size: int, chat: bool) -> dict[str, int]:
    """Special token -> id.

    Args:
        base_vocab_size: pieces of the SentencePiece model; 32000 in the published one.
        chat: with the two role tokens.
    """
    added = ADDED_TOKENS + (CHAT_TOKENS if chat else ())
    return {UNK: 0, BOS: 1, EOS: 2} | {token: base_vocab_size + i for i, token in enumerate(added)}
