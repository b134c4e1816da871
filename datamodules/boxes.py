"""ms-swift's grounding: `objects` for `<ref-object>` and `<bbox>` placeholders, from left to right."""

import re
from typing import Any

from datamodules.turns import Message, as_list
from emu2_lit.samples.encoding import read_picture
from emu2_lit.samples.sample import BadSample, Box, Part

PLACEHOLDERS = re.compile(r"(<ref-object>\s*<bbox>|<ref-object>|<bbox>)")


def place_boxes(messages: list[Message], objects: dict[str, Any], images: list[Any]) -> None:
    """Replace the placeholders by phrases and boxes; counts that differ are a BadSample with both numbers."""
    if not isinstance(objects, dict):
        raise BadSample(f"`objects` is a {type(objects).__name__}, not an object")
    phrases, corners = as_list(objects.get("ref")), _boxes(objects, images)
    if not all(isinstance(phrase, str) for phrase in phrases):
        raise BadSample(f"`ref` of `objects` holds what is no text: {phrases!r}")
    texts = [part.value for message in messages for part in message.content if part.kind == "text"]
    for tag, values in (("<ref-object>", phrases), ("<bbox>", corners)):
        count = sum(text.count(tag) for text in texts)
        if count != len(values):
            raise BadSample(f"{count} {tag} placeholder(s) for {len(values)} in `objects`")
    refs, boxes = iter(phrases), iter(corners)
    for message in messages:
        message.content = [part for whole in message.content for part in _split(whole, refs, boxes)]


def _split(part: Part, refs: Any, boxes: Any) -> list[Part]:
    if part.kind != "text":
        return [part]
    parts = []
    for piece in PLACEHOLDERS.split(part.value):
        if PLACEHOLDERS.fullmatch(piece):
            phrase = next(refs) if piece.startswith("<ref") else None
            parts.append(Part("box", Box(phrase, next(boxes))) if piece.endswith("<bbox>") else Part("text", phrase))
        elif piece:
            parts.append(Part("text", piece))
    return parts


def _boxes(objects: dict[str, Any], images: list[Any]) -> list[tuple[float, float, float, float]]:
    """Boxes in 0..1; `bbox_type: real` (default) gives them in pixels of image `image_id` (default 0)."""
    boxes = as_list(objects.get("bbox"))
    which = as_list(objects.get("image_id")) or [0] * len(boxes)
    if len(which) != len(boxes):
        raise BadSample(f"{len(boxes)} box(es) for {len(which)} `image_id`s")
    kind = objects.get("bbox_type", "real")
    if kind not in ("real", "norm1"):
        raise BadSample(f"unknown bbox_type {kind!r}; known: real, norm1")
    result = []
    for box, index in zip(boxes, which, strict=True):
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(x, int | float) for x in box):
            raise BadSample(f"a box must be four numbers, not {box!r}")
        if kind == "real" and index not in range(len(images)):
            raise BadSample(f"a box belongs to image {index}, but there are {len(images)} image(s)")
        width, height = read_picture(images[index]).size if kind == "real" else (1, 1)
        scaled = (box[0] / width, box[1] / height, box[2] / width, box[3] / height)
        if not all(0 <= x <= 1 for x in scaled) or scaled[0] > scaled[2] or scaled[1] > scaled[3]:
            raise BadSample(f"the box {box} is not x1, y1, x2, y2 within its image ({width}x{height})")
        result.append(scaled)
    return result
