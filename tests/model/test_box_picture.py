"""The localisation picture against its definition."""

import numpy as np
import pytest

from emu2_lit.model.box_picture import CANVAS, box_picture


def by_definition(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    """White where a point of the outline, also one beside the canvas, is at most two steps away."""
    margin = 2
    outline = np.zeros((CANVAS + 1 + 2 * margin,) * 2, bool)
    shifted = outline[margin:, margin:]
    shifted[top : bottom + 1, [left, right]] = True
    shifted[[top, bottom], left : right + 1] = True
    grown = np.zeros_like(outline)
    for down in range(-margin, margin + 1):
        for aside in range(-margin + abs(down), margin - abs(down) + 1):
            grown |= np.roll(outline, (down, aside), (0, 1))
    return grown[margin : margin + CANVAS, margin : margin + CANVAS]


BOXES = [(0, 0, 448, 448), (40, 80, 300, 420), (447, 3, 448, 5), (10, 10, 10, 10), (5, 100, 9, 103), (0, 200, 448, 200)]


@pytest.mark.parametrize("corners", BOXES)
def test_white_within_two_steps_of_the_outline(corners):
    left, right = sorted((corners[0], corners[2]))
    top, bottom = sorted((corners[1], corners[3]))
    drawn = box_picture([value / CANVAS for value in corners])
    assert (drawn.mode, drawn.size) == ("RGB", (CANVAS, CANVAS))
    white = by_definition(left, top, right, bottom)
    assert np.array_equal(np.array(drawn), white[..., None].repeat(3, axis=2).astype(np.uint8) * 255)


def test_random_boxes():
    for corners in np.random.default_rng(0).integers(0, CANVAS + 1, (60, 4)).tolist():
        test_white_within_two_steps_of_the_outline(corners)


def test_corners_are_held_inside_and_ordered():
    expected = box_picture([0, 0.25, 1, 0.5]).tobytes()
    assert box_picture([1.2, 0.5, -0.1, 0.25]).tobytes() == expected
    assert box_picture([0.0004, 0.2499, 0.9996, 0.5001]).tobytes() == expected  # to the nearest pixel
