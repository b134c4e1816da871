"""Subjects of a picture: {image, caption, objects: [{phrase, box, mask, image}]}, boxes and outlines in 0..1; drawn.

Everything in an object is optional. What it looks like is its own `image`, or else is cut out of the picture by box and
mask; without a box, by the mask's own bounds. `mask` is a list of outlines, run lengths {size, counts} or a picture.
`emu2-lit data convert` writes this form.
"""

import math
import re
from typing import Any

from datamodules.context import Context
from datamodules.importers.captions import caption_of, image_of
from datamodules.masks import read_mask
from emu2_lit.model.boxes import Corners
from emu2_lit.model.subjects import Subject
from emu2_lit.samples.drawn import WHOLE, SubjectCrop
from emu2_lit.samples.masks import Polygons, RunLengths
from emu2_lit.samples.sample import BadSample, Part, Sample

Span = tuple[int, int]


def detect(record: dict[str, Any]) -> bool:
    return "caption" in record and isinstance(record.get("objects"), list)


def to_sample(record: dict[str, Any], context: Context) -> Sample:
    objects = record.get("objects")
    if not isinstance(objects, list) or not all(isinstance(one, dict) for one in objects):
        raise BadSample("`objects` is not a list of objects with phrase, box, mask or image")
    caption, target = caption_of(record), image_of(record, context)
    taken: list[Span] = []
    parts = [Part("subject", _subject(one, caption, taken, target, context)) for one in objects]
    return Sample(
        context.sample_id(record), (Part("text", caption), *parts, Part("image", target, learn=True)), as_is=True,
        grounding=any(part.value.box is not None for part in parts),
    )  # fmt: skip


def _subject(one: dict[str, Any], caption: str, taken: list[Span], target: Any, context: Context) -> Subject:
    phrase, box, mask = one.get("phrase"), one.get("box"), read_mask(one.get("mask"), context)
    if phrase is not None and (not isinstance(phrase, str) or not phrase.strip()):
        raise BadSample(f"the phrase of an object is {phrase!r}")
    own = one.get("image")  # the mask is of this picture, else of the one to be drawn
    if box is None and own is None and isinstance(mask, Polygons | RunLengths):
        box = list(mask.bounds or ())
    box = None if box is None else corners_of(box)
    if own is not None:
        picture = SubjectCrop(context.image(own), WHOLE, mask)
    else:
        picture = None if box is None else SubjectCrop(target, box, mask)
    span = None if phrase is None else place_in(caption, phrase.strip(), taken)
    subject = Subject(phrase and phrase.strip(), box, picture, span)
    if not subject:
        raise BadSample("an object has neither phrase nor box nor image")
    return subject


def place_in(caption: str, phrase: str, taken: list[Span]) -> Span | None:
    """Where the caption says a phrase for the first time that is not taken yet; takes it."""
    for match in re.finditer(rf"(?<!\w){re.escape(phrase)}(?!\w)", caption, re.IGNORECASE):
        if all(match.end() <= start or match.start() >= stop for start, stop in taken):
            taken.append(match.span())
            return match.span()
    return None


def corners_of(box: Any) -> Corners:
    """Raises BadSample for what is not x1, y1, x2, y2 in 0..1."""
    numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(value, int | float) for value in box)
    if not numbers or not all(math.isfinite(value) and 0 <= value <= 1 for value in box):
        raise BadSample(f"the box {box!r} is not x1, y1, x2, y2 in 0..1")
    if box[0] >= box[2] or box[1] >= box[3]:
        raise BadSample(f"the box {box!r} has no area")
    return tuple(box)
