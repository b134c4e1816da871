import math

import pytest

from emu2_lit.errors import UserError
from emu2_lit.evaluation import box_accuracy, box_overlap, first_box, iou

LEFT, WHOLE = (0.0, 0.0, 0.5, 1.0), (0.0, 0.0, 1.0, 1.0)


def tokens(*places: int) -> str:
    return "<object>" + "".join(f"<patch_index_{place:04}>" for place in places) + "</object>"


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 2, 2), (1, 1, 3, 3), 1 / 7),
        ((0, 0, 4, 1), (0, 0, 1, 4), 1 / 7),
        ((0, 0, 2, 2), (0, 0, 2, 2), 1),
        ((0, 0, 2, 2), (0, 0, 1, 1), 1 / 4),
        ((0, 0, 1, 1), (1, 0, 2, 1), 0),  # they touch
        ((0, 0, 1, 1), (2, 2, 3, 3), 0),  # apart both ways: no area from two negative sides
        ((1, 1, 1, 1), (1, 1, 1, 1), 0),
    ],
)
def test_overlap_of_boxes(a, b, expected):
    assert iou(a, b) == iou(b, a) == pytest.approx(expected)


def test_the_first_box_of_a_reply_counts():
    reply = f"<phrase>the dog</phrase>{tokens(0, 0, 112, 224)} and {tokens(0, 0, 224, 224)}"
    assert first_box(reply) == LEFT
    assert first_box("no box") is None
    assert box_overlap(reply, WHOLE) == pytest.approx(0.5)
    assert box_overlap("no box", WHOLE) == 0.0


def test_one_of_several_expressions():
    reply = f"<phrase>dog</phrase>{tokens(0, 0, 112, 224)}<phrase>The cat.</phrase>{tokens(0, 0, 224, 224)}"
    assert first_box(reply, "the cat") == WHOLE
    assert first_box(reply, "bird") is None
    assert first_box(tokens(0, 0, 224, 224), "the cat") is None
    assert box_accuracy([reply] * 3, [LEFT, WHOLE, WHOLE], ["dog", "the cat", "dog"]) == pytest.approx(2 / 3)


def test_accuracy_needs_more_than_half():
    half, more = tokens(0, 0, 112, 224), tokens(0, 0, 113, 224)
    assert box_accuracy([half, more, "none", tokens(0, 0, 224, 224)], [WHOLE] * 4) == 0.5
    assert box_accuracy([half], [WHOLE], threshold=0.4) == 1.0
    assert math.isnan(box_accuracy([], []))
    with pytest.raises(UserError, match="1 replies, 2 boxes"):
        box_accuracy([half], [WHOLE, WHOLE])
