"""Plain text: {text}, with no picture; all of it is learned."""

from typing import Any

from datamodules.context import Context
from emu2_lit.samples.sample import BadSample, Part, Sample


def detect(record: dict[str, Any]) -> bool:
    return "text" in record and not record.keys() & {"image", "images", "video", "videos", "__key__"}


def to_sample(record: dict[str, Any], context: Context) -> Sample:
    text = record["text"]
    if not isinstance(text, str) or not text.strip():
        raise BadSample("the text is empty" if isinstance(text, str) else f"the text is {text!r}")
    return Sample(context.sample_id(record), (Part("text", text.strip(), learn=True),))
