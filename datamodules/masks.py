"""Masks of things as data files have them: outlines, COCO's run lengths, pictures."""

import math
from typing import Any

from datamodules.context import Context
from emu2_lit.samples.masks import Polygons, RunLengths
from emu2_lit.samples.sample import BadSample

_TOLERANCE = 0.01  # outlines that reach over the border by as much are cut there
MAX_PIXELS = 1 << 27


def read_mask(value: Any, context: Context) -> Any:
    """A mask of a `SubjectCrop`: from a list of outlines in 0..1, run lengths {size, counts}, a picture, or null."""
    if value is None or value == []:
        return None
    if isinstance(value, list):
        return polygons(value, 1, 1)
    return run_lengths(value) if isinstance(value, dict) and "counts" in value else context.image(value)


def polygons(outlines: Any, width: float, height: float) -> Polygons:
    """Outlines x1, y1, x2, y2, ... on a picture of width x height. Raises BadSample for what is none."""
    if not isinstance(outlines, list) or not all(_is_outline(outline) for outline in outlines):
        raise BadSample("a mask must be a list of outlines, each x1, y1, x2, y2, ... of three points at least")
    scaled = [
        tuple(value / (height if place % 2 else width) for place, value in enumerate(outline)) for outline in outlines
    ]
    if not all(-_TOLERANCE <= value <= 1 + _TOLERANCE for outline in scaled for value in outline):
        raise BadSample(f"an outline of a mask reaches beyond its picture ({width:g}x{height:g})")
    return Polygons(tuple(tuple(min(max(value, 0.0), 1.0) for value in outline) for outline in scaled))


def _is_outline(outline: Any) -> bool:
    if not isinstance(outline, list) or len(outline) < 6 or len(outline) % 2:
        return False
    return all(isinstance(value, int | float) and math.isfinite(value) for value in outline)


def run_lengths(value: dict[str, Any]) -> RunLengths:
    """COCO's {size: [height, width], counts}, counts as a list or compressed. Raises BadSample for what is none."""
    size, counts = value.get("size"), value.get("counts")
    if not (isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size)):
        raise BadSample(f"the size of a mask must be [height, width], not {size!r}")
    counts = decompressed(counts) if isinstance(counts, str) else counts
    if not isinstance(counts, list) or not all(isinstance(count, int) and count >= 0 for count in counts):
        raise BadSample("the counts of a mask are not lengths of runs")
    height, width = size
    if sum(counts) != height * width or height * width > MAX_PIXELS:
        raise BadSample(f"the runs of a mask have {sum(counts)} pixels, its size is {width}x{height}")
    return RunLengths(tuple(counts), width, height)


def decompressed(text: str) -> list[int]:
    """Run lengths from COCO's string: numbers of 5 bits a character, lowest first, the sixth bit says that more follow;
    from the fourth on each is the difference to the one two before. Raises BadSample for a damaged string."""
    counts: list[int] = []
    number = shift = 0
    for letter in text:
        code = ord(letter) - 48
        if not 0 <= code < 64:
            raise BadSample(f"the counts of a mask hold {letter!r}, which is no part of a compressed mask")
        number |= (code & 31) << shift
        shift += 5
        if not code & 32:
            number -= (code >> 4 & 1) << shift  # the sign
            counts.append(number + (counts[-2] if len(counts) > 2 else 0))
            number = shift = 0
    if shift:
        raise BadSample("the counts of a mask end within a number")
    return counts
