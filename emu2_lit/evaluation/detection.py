"""Boxes that a model names: overlap with the true box, and accuracy at IoU 0.5 (RefCOCO; paper, table 3)."""

from collections.abc import Sequence

from emu2_lit.errors import UserError
from emu2_lit.evaluation.exact_match import normalise
from emu2_lit.model.boxes import Corners, parse_boxes


def iou(a: Corners, b: Corners) -> float:
    """Area shared by two boxes over the area of both, 0..1.

    Args:
        a, b: x1, y1, x2, y2, in any unit that both share.
    """
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    union = _area(a) + _area(b) - shared
    return shared / union if union else 0.0


def first_box(reply: str, phrase: str | None = None) -> Corners | None:
    """The first box of a reply, in 0..1 of the picture, or None.

    Args:
        reply: decoded with special tokens kept.
        phrase: where a reply names several expressions, the box of this one only.
    """
    for named, corners in parse_boxes(reply):
        if phrase is None or (named is not None and normalise(named) == normalise(phrase)):
            return corners
    return None


def box_overlap(reply: str, reference: Corners, phrase: str | None = None) -> float:
    """IoU of the first box of a reply with the true box in 0..1 of the picture; 0 where the reply has none."""
    box = first_box(reply, phrase)
    return iou(box, reference) if box is not None else 0.0


def box_accuracy(
    replies: Sequence[str],
    references: Sequence[Corners],
    phrases: Sequence[str | None] | None = None,
    threshold: float = 0.5,
) -> float:
    """Share of expressions whose box overlaps the true box by more than `threshold`; nan for none.

    Args:
        replies: one for each expression. A reply to several expressions at once is given once for each.
        references: the true box of each, in 0..1 of the picture.
        phrases: which expression each is about, for replies to several.

    Raises:
        UserError: lists of different lengths.
    """
    phrases = phrases if phrases is not None else [None] * len(replies)
    if not len(replies) == len(references) == len(phrases):
        raise UserError(f"Boxes: {len(replies)} replies, {len(references)} boxes and {len(phrases)} phrases.")
    hits = [box_overlap(*item) > threshold for item in zip(replies, references, phrases, strict=True)]
    return sum(hits) / len(hits) if hits else float("nan")


def _area(box: Corners) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])
