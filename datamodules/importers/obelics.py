"""OBELICS and OmniCorpus: {images, texts}, as long as each other, with one of the two at each place."""

from dataclasses import replace
from typing import Any

from datamodules.context import Context
from datamodules.sentences import sentences
from emu2_lit.samples.sample import BadSample, Part, Sample


def detect(record: dict[str, Any]) -> bool:
    return isinstance(record.get("images"), list) and isinstance(record.get("texts"), list)


def to_sample(record: dict[str, Any], context: Context) -> Sample:
    """A picture belongs to the sentence behind it; at the end of a document, to the one before."""
    images, texts = record.get("images"), record.get("texts")
    if not isinstance(images, list) or not isinstance(texts, list):
        raise BadSample("`images` and `texts` must be lists")
    if len(images) != len(texts):
        raise BadSample(f"{len(images)} `images` for {len(texts)} `texts`: they must be parallel")
    parts: list[Part] = []
    group = 0
    for place, (image, text) in enumerate(zip(images, texts, strict=True)):
        if image is not None and text is not None:
            raise BadSample(f"place {place} holds an image and a text; one of them must be null")
        if image is not None:
            parts.append(Part("image", context.image(image), group=group))
        elif text is not None:
            for sentence in sentences(_text(text, place)):
                parts.append(Part("text", sentence, learn=True, group=group))
                group += 1
    if not parts:
        raise BadSample("the document is empty")
    return Sample(context.sample_id(record), tuple(_closed(parts)))


def _text(text: Any, place: int) -> str:
    """With a line's end, so that texts do not run together where the picture between them is left out."""
    if not isinstance(text, str):
        raise BadSample(f"the text at place {place} is {text!r}, not a string")
    return text.rstrip() + "\n"


def _closed(parts: list[Part]) -> list[Part]:
    """Pictures behind the last sentence join its group."""
    texts = [part.group for part in parts if part.kind == "text"]
    last = texts[-1] if texts else 0
    return [replace(part, group=min(part.group, last)) for part in parts]
