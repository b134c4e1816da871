"""Captioned images: {image, caption} or {image, text}; the caption is learned after the image."""

from typing import Any

from datamodules.context import Context
from datamodules.turns import as_list
from emu2_lit.samples.sample import BadSample, Part, Sample


def detect(record: dict[str, Any]) -> bool:
    return bool(record.keys() & {"image", "images"}) and bool(record.keys() & {"caption", "text"})


def to_sample(record: dict[str, Any], context: Context) -> Sample:
    images = [context.image(value) for value in as_list(record.get("image", record.get("images")))]
    if not images:
        raise BadSample("the caption has no image")
    caption = record.get("caption", record.get("text"))
    if not isinstance(caption, str) or not caption.strip():
        raise BadSample("the caption is empty" if isinstance(caption, str) else f"the caption is {caption!r}")
    parts = [Part("image", value) for value in images] + [Part("text", caption.strip(), learn=True)]
    return Sample(context.sample_id(record), tuple(parts))
