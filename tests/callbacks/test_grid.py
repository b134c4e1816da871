import numpy as np
import pytest
from PIL import Image, ImageFont

from callbacks.grid import Cell, draw_grid, fit_picture, wrap

GREEN, RED = (21, 128, 61), (185, 28, 28)
FONT = ImageFont.load_default(size=13)


def colours(image: Image.Image) -> set[tuple[int, ...]]:
    return {colour for _, colour in image.getcolors(maxcolors=2**24)}


def cell(correct: bool, prediction: str = "seven", image: Image.Image | None = None) -> Cell:
    return Cell(image, "which digit?", "seven", prediction, correct)


def test_right_answers_are_green_and_wrong_ones_red():
    assert GREEN in colours(draw_grid([cell(True)])) and RED not in colours(draw_grid([cell(True)]))
    assert RED in colours(draw_grid([cell(False)])) and GREEN not in colours(draw_grid([cell(False)]))


@pytest.mark.parametrize("size", [(8, 8), (56, 30), (111, 3)])
def test_small_pictures_are_enlarged_without_blurring(size):
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    enlarged = np.asarray(fit_picture(Image.fromarray(pixels)))
    factor = enlarged.shape[1] // size[0]
    assert 112 <= max(enlarged.shape) <= 168 or factor == 1
    assert (enlarged == pixels.repeat(factor, 0).repeat(factor, 1)).all()


@pytest.mark.parametrize("size", [(448, 448), (2000, 100), (112, 168)])
def test_large_pictures_keep_their_shape(size):
    width, height = fit_picture(Image.new("L", size)).size
    assert max(width, height) <= 168
    assert width / height == pytest.approx(size[0] / size[1], rel=0.2)


def test_a_sheet_of_any_number_of_cells():
    one, many = draw_grid([cell(True)]), draw_grid([cell(True)] * 7)
    assert many.width == 6 * one.width and many.height == 2 * one.height
    assert draw_grid([]).size == one.size
    assert draw_grid([cell(False, prediction="")]).size == one.size


def test_text_is_broken_at_words_and_cut_with_an_ellipsis():
    assert wrap("one two", FONT, 1000, 3) == ["one two"]
    lines = wrap("a question that is quite long " * 5, FONT, 100, 3)
    assert len(lines) == 3 and lines[-1].endswith("...")
    assert all(FONT.getlength(line) <= 100 for line in lines)
    assert "".join(wrap("x" * 40, FONT, 100, 9)) == "x" * 40
    assert wrap("", FONT, 100, 3) == [""]


def test_pictures_without_a_verdict_take_no_room_for_one():
    picture = Image.new("RGB", (300, 200), "red")
    captioned = draw_grid([Cell(picture, "a dog", "", "", None)] * 3, columns=2, side=256)
    judged = draw_grid([Cell(picture, "a dog", "yes", "no", False)] * 3, columns=2, side=256)
    assert captioned.width == judged.width == 2 * (256 + 24)
    assert captioned.height == 2 * (256 + 24 + 4 * 16) and judged.height == 2 * (256 + 24 + 9 * 16)
