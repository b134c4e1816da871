"""A small tokenizer of the same structure as LLaMA's, for the small presets: trained here, on the words below."""

import functools
import io

import sentencepiece

from emu2_lit.model.chat_template import SYSTEM_MESSAGES
from emu2_lit.model.configuration import TINY_VOCAB_SIZE

_DIGITS = "zero one two three four five six seven eight nine ten".split()
_WORDS = (
    "red green blue yellow black white orange purple brown pink circle square triangle dog cat tree grass house car "
    "left right top bottom yes no even odd true false small large picture image photo text word number name"
).split()


def _corpus() -> list[str]:
    lines = list(SYSTEM_MESSAGES.values()) * 20
    for digit in _DIGITS:
        lines += [
            f"a handwritten {digit}", f"the handwritten digit {digit}", f"which digit is written here? {digit}",
            f"what comes after this digit? {digit}", f"what comes before this digit? {digit}", f"this is a {digit}.",
        ] * 8  # fmt: skip
    for word in _WORDS:
        lines += [f"a {word}", f"the {word} is {word}.", f"is it {word} or not? {word}", f"what {word} is this?"] * 4
    lines += [
        "is the digit even or odd? even", "is the digit even or odd? odd", "is it greater than four? yes",
        "is it greater than four? no", "is it less than five?", "describe the image in details:",
        "based on the picture, what is this? short answer:", "a photo of", "what is in the picture?",
        "how many are there?", "answer the question using a single word or phrase.",
    ] * 10  # fmt: skip
    return lines


@functools.cache
def tiny_tokenizer_model() -> bytes:
    """The bytes of a SentencePiece BPE model with LLaMA's settings: bytes for what it lacks, digits apart, text kept
    as it is. The same on every machine with the same SentencePiece; a saved model keeps its own."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_corpus()),
        model_writer=model,
        model_type="bpe",
        vocab_size=TINY_VOCAB_SIZE,
        character_coverage=1.0,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        allow_whitespace_only_pieces=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()
