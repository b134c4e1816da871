"""Subjects200K: {image, description: {item, description_0, description_1}}, two views side by side; either is drawn."""

from typing import Any

from datamodules.context import Context
from datamodules.importers.captions import image_of
from datamodules.importers.grounded import place_in
from emu2_lit.model.subjects import Subject
from emu2_lit.samples.drawn import SideBySide
from emu2_lit.samples.sample import BadSample, Part, Sample


def detect(record: dict[str, Any]) -> bool:
    return isinstance(record.get("description"), dict) and "item" in record["description"]


def to_sample(record: dict[str, Any], context: Context) -> Sample:
    """One view with its description is drawn from the other; both directions are learned, one in each epoch."""
    description = record.get("description")
    if not isinstance(description, dict):
        raise BadSample(f"`description` is a {type(description).__name__}, not an object")
    item, *texts = (_text(description, key) for key in ("item", "description_0", "description_1"))
    image = image_of(record, context)
    directions = [_direction(image, item, texts[drawn], bool(drawn)) for drawn in (1, 0)]
    return Sample(context.sample_id(record), directions[0], as_is=True, alternatives=(directions[1],))


def _direction(image: Any, item: str, text: str, right: bool) -> tuple[Part, ...]:
    subject = Subject(item, picture=SideBySide(image, not right), span=place_in(text, item, []))
    return Part("text", text), Part("subject", subject), Part("image", SideBySide(image, right), learn=True)


def _text(description: dict[str, Any], key: str) -> str:
    if not isinstance(description.get(key), str) or not description[key].strip():
        raise BadSample(f"`{key}` of the description is {description.get(key)!r}")
    return description[key].strip()
