import pytest

from emu2_lit.model.boxes import box_segments, parse_boxes, quantise
from emu2_lit.model.segments import render
from emu2_lit.model.special_tokens import NEXT_OBJECT
from tests.model.processor_cases import tiny_processor


def tokens(*values):
    return "".join(f"<patch_index_{value:04d}>" for value in values)


def in_bins(found):
    return [(phrase, tuple(round(value * 224) for value in corners)) for phrase, corners in found]


def test_corners_go_to_the_nearest_of_225_places():
    assert quantise((0.0, 0.5, 1.0, 0.25)) == [0, 112, 224, 56]
    assert quantise((-0.1, 1.1, 0.4 / 224, 0.6 / 224)) == [0, 224, 0, 1]


def test_a_box_in_the_text():
    assert render(box_segments((0, 0, 1, 1), "a dog")) == (
        f"<phrase>a dog</phrase><object>{tokens(0, 0, 224, 224)}</object>"
    )
    assert render(box_segments([(0, 0, 1, 1), (0, 0, 0.5, 0.5)])) == (
        f"<object>{tokens(0, 0, 224, 224)}</delimiter_of_multi_objects/>{tokens(0, 0, 112, 112)}</object>"
    )


def test_boxes_come_back_from_the_decoded_ids():
    processor = tiny_processor()
    boxes = [("a red circle", (0.125, 0.25, 0.5, 1.0)), (None, (0.0, 0.0, 1.0, 0.5))]
    ids, _ = processor.encode_segments([s for phrase, corners in boxes for s in box_segments(corners, phrase)])
    found = parse_boxes(processor.decode(ids, skip_special_tokens=False))
    assert found == [(phrase, pytest.approx(corners, abs=1 / 448)) for phrase, corners in boxes]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"it is <object>{tokens(1, 2, 3, 4)}</object>", [(None, (1, 2, 3, 4))]),
        (f"<object>{tokens(1, 2, 3, 4)}</object><phrase>a</phrase>", [("a", (1, 2, 3, 4))]),
        (f"<phrase> a </phrase> <object> {tokens(3, 4, 1, 2)} </object>", [("a", (1, 2, 3, 4))]),
        (f"<phrase>a</phrase><object>{tokens(1, 2, 3, 256)}</object>", [("a", (1, 2, 3, 224))]),
        (
            f"<phrase>a</phrase><object>{tokens(1, 2, 3, 4)}{NEXT_OBJECT}{tokens(5, 6, 7, 8)}</object>",
            [("a", (1, 2, 3, 4)), ("a", (5, 6, 7, 8))],
        ),
        (
            f"<phrase>a</phrase><object>{tokens(1, 2, 3, 4)}<phrase>b</phrase><object>{tokens(5, 6, 7, 8)}",
            [("a", (1, 2, 3, 4)), ("b", (5, 6, 7, 8))],
        ),
        (
            f"<object>{tokens(1, 2, 3)}</object><phrase>b</phrase><object>{tokens(5, 6, 7, 8)}</object>",
            [("b", (5, 6, 7, 8))],
        ),
        (f"<object>{tokens(1, 2, 3, 4, 5)}</object>", []),
        (tokens(1, 2, 3, 4), []),
        ("<object>", []),
        ("no box", []),
    ],
)
def test_generated_boxes_are_read_with_forgiveness(text, expected):
    assert in_bins(parse_boxes(text)) == expected


def test_a_phrase_may_stand_behind_its_boxes():
    text = render(box_segments([(0, 0, 1, 1), (0, 0, 0.5, 0.5)], "two dogs", phrase_first=False))
    assert text.startswith("<object>") and text.endswith("</object><phrase>two dogs</phrase>")
    assert in_bins(parse_boxes(text)) == [("two dogs", (0, 0, 224, 224)), ("two dogs", (0, 0, 112, 112))]
