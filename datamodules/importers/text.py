"""Texts alone, as of the Pile: {text}; what does not fit is left out by whole sentences."""

from typing import Any

from datamodules.context import Context
from datamodules.sentences import sentences
from emu2_lit.samples.sample import BadSample, Part, Sample

_OTHERS = {"image", "images", "video", "videos", "caption", "messages", "conversations"}


def detect(record: dict[str, Any]) -> bool:
    return "text" in record and not record.keys() & _OTHERS


def to_sample(record: dict[str, Any], context: Context) -> Sample:
    text = record.get("text", record.get("caption"))
    if not isinstance(text, str) or not text.strip():
        raise BadSample("the text is empty" if isinstance(text, str) else f"the text is {text!r}")
    parts = (Part("text", piece, learn=True, group=place) for place, piece in enumerate(sentences(text)))
    return Sample(context.sample_id(record), tuple(parts))
