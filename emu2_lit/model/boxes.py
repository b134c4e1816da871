"""Boxes as location tokens: x1, y1, x2, y2 in 0..224 of the squashed picture (paper, supplement B.1)."""

import re
from collections.abc import Sequence

from emu2_lit.model.segments import Segment
from emu2_lit.model.special_tokens import (
    NEXT_OBJECT,
    OBJECT_BEGIN,
    OBJECT_END,
    PHRASE_BEGIN,
    PHRASE_END,
    location_token,
)

BINS = 224
Corners = tuple[float, float, float, float]


def quantise(corners: Sequence[float]) -> list[int]:
    """Corners in 0..1 to the nearest of 0..224. The rounding of the original is not documented; its error is at most
    1/448 of a side."""
    return [round(min(max(value, 0.0), 1.0) * BINS) for value in corners]


def phrase_segments(phrase: str) -> list[Segment]:
    """What something is called, set apart from the text around it."""
    return [Segment("token", PHRASE_BEGIN), Segment("text", phrase), Segment("token", PHRASE_END)]


def box_segments(
    corners: Sequence[float] | Sequence[Sequence[float]], phrase: str | None = None, phrase_first: bool = True
) -> list[Segment]:
    """A box, or several of one phrase, as it stands in the text.

    Args:
        corners: x1, y1, x2, y2 in 0..1, or a list of such.
        phrase_first: the phrase stands before the box, else behind it.
    """
    boxes = [corners] if not hasattr(corners[0], "__len__") else list(corners)
    named, placed = [], [Segment("token", OBJECT_BEGIN)]
    if phrase is not None:
        named = phrase_segments(phrase)
    for place, box in enumerate(boxes):
        placed += [Segment("token", NEXT_OBJECT)] if place else []
        placed += [Segment("token", location_token(value)) for value in quantise(box)]
    placed.append(Segment("token", OBJECT_END))
    return named + placed if phrase_first else placed + named


_OBJECT = re.compile(
    r"(?:<phrase>(?P<before>(?:(?!</?phrase>|<object>).)*)</phrase>\s*)?"
    r"<object>(?P<tokens>.*?)(?:</object>|(?=<object>|<phrase>)|$)"
    r"(?:\s*<phrase>(?P<after>(?:(?!</?phrase>|<object>).)*)</phrase>(?!\s*<object>))?",
    re.DOTALL,
)
_LOCATION = re.compile(r"<patch_index_(\d{4})>")


def parse_boxes(text: str) -> list[tuple[str | None, Corners]]:
    """Boxes in a generated text, decoded with special tokens kept.

    Forgiving: the phrase may stand before, after or be absent; corners may be swapped; groups of other than four
    coordinates are passed over, and a box that is not closed ends where the next begins.

    Returns:
        (phrase or None, corners in 0..1) for each box.
    """
    found = []
    for match in _OBJECT.finditer(text):
        phrase = match["before"] if match["before"] is not None else match["after"]
        for group in match["tokens"].split(NEXT_OBJECT):
            values = [min(int(value), BINS) / BINS for value in _LOCATION.findall(group)]
            if len(values) == 4:
                x1, y1, x2, y2 = values
                corners = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
                found.append((phrase.strip() if phrase is not None else None, corners))
    return found


def written_boxes(text: str) -> str:
    """A generated text with its boxes as numbers, `[x1, y1, x2, y2]` in 0..1, and their phrases as plain words."""

    def written(match: re.Match) -> str:
        phrase = match["before"] if match["before"] is not None else match["after"]
        boxes = [f"[{', '.join(f'{value:.3f}' for value in corners)}]" for _, corners in parse_boxes(match[0])]
        return " ".join([*([phrase.strip()] if phrase else []), *boxes])

    return _OBJECT.sub(written, text).strip()
