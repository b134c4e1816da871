"""GRIT: {image, caption, ref_exps or noun_chunks: rows of start, end, x1, y1, x2, y2, score}; boxes in 0..1."""

import math
from typing import Any

from datamodules.context import Context
from datamodules.importers.captions import caption_of
from datamodules.masks import read_mask
from datamodules.turns import as_list
from emu2_lit.model.boxes import Corners
from emu2_lit.samples.sample import BadSample, Box, Part, Sample

Span = tuple[int, int]
Found = tuple[Corners, Any]  # a box and its mask
_TOLERANCE = 0.01  # boxes of the detector that reach over the border by as much are cut there


def detect(record: dict[str, Any]) -> bool:
    return "caption" in record and bool(record.keys() & {"noun_chunks", "ref_exps"})


def to_sample(record: dict[str, Any], context: Context) -> Sample:
    """The caption with its phrases and their boxes.

    The referring expressions are taken, or where there are none the noun chunks they grew from; of phrases that overlap
    the longest. Rows of one span are several boxes of one phrase. `masks`, as long as the rows, is for generation.
    """
    images = as_list(record.get("image"))
    if len(images) != 1:
        raise BadSample(f"boxes need one image, not {len(images)}")
    caption_of(record)
    caption = record["caption"]
    rows = record.get("ref_exps") or record.get("noun_chunks") or []
    if not isinstance(rows, list):
        raise BadSample(f"the phrases are a {type(rows).__name__}, not a list of rows")
    parts, end = [Part("image", context.image(images[0]))], 0
    phrases = _phrases(rows, _masks(record, len(rows), context), caption, context.min_score)
    for (start, stop), found in phrases:
        boxes, masks = zip(*found, strict=True)
        parts.append(Part("text", caption[end:start], learn=True))
        box = Box(caption[start:stop].strip(), boxes, masks=masks if any(masks) else ())
        parts.append(Part("box", box, learn=True))
        end = stop
    parts.append(Part("text", caption[end:], learn=True))
    parts = [part for part in parts if part.kind != "text" or part.value.strip()]
    return Sample(context.sample_id(record), tuple(parts), grounding=bool(phrases))


def _masks(record: dict[str, Any], rows: int, context: Context) -> list[Any]:
    """One of each row, or None: `masks` is as long as the rows."""
    masks = record.get("masks")
    if masks is None:
        return [None] * rows
    if not isinstance(masks, list) or len(masks) != rows:
        raise BadSample(f"`masks` must be a list as long as the {rows} phrase(s)")
    return [read_mask(mask, context) for mask in masks]


def _phrases(rows: list[Any], masks: list[Any], caption: str, min_score: float) -> list[tuple[Span, list[Found]]]:
    """The boxes of each span that is kept, with their masks, in the order of the spans."""
    found: dict[Span, list[Found]] = {}
    for row, mask in zip(rows, masks, strict=True):
        start, stop, corners, score = _read(row, caption)
        if score >= min_score:
            found.setdefault((start, stop), []).append((corners, mask))
    kept: list[Span] = []
    for start, stop in sorted(found, key=lambda span: (span[0] - span[1], span)):
        if all(stop <= other[0] or start >= other[1] for other in kept):
            kept.append((start, stop))
    return [(span, found[span]) for span in sorted(kept)]


def _read(row: Any, caption: str) -> tuple[int, int, Corners, float]:
    if not isinstance(row, list) or len(row) != 7 or not all(_is_number(value) for value in row):
        raise BadSample(f"a phrase must be start, end, x1, y1, x2, y2, score, not {row!r}")
    start, stop, *corners, score = row
    if not 0 <= start < stop <= len(caption) or not caption[int(start) : int(stop)].strip():
        raise BadSample(f"the phrase {start}..{stop} is not within the caption of {len(caption)} characters")
    inside = all(-_TOLERANCE <= value <= 1 + _TOLERANCE for value in corners)
    if not inside or corners[0] > corners[2] or corners[1] > corners[3]:
        raise BadSample(f"the box {corners} is not x1, y1, x2, y2 in 0..1")
    x1, y1, x2, y2 = (min(max(value, 0.0), 1.0) for value in corners)
    return int(start), int(stop), (x1, y1, x2, y2), score


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
