"""Pictures made while a sample is encoded, on real ones."""

import io

import numpy as np
import pytest
from PIL import Image
from skimage import data as pictures

from emu2_lit.samples.drawn import SideBySide, SubjectCrop, TargetPicture
from emu2_lit.samples.encoding import read_picture
from emu2_lit.samples.masks import Polygons, RunLengths
from emu2_lit.samples.sample import BadSample, picture_name

COFFEE = Image.fromarray(pictures.coffee())  # 600 x 400
LEFT_HALF = Polygons(((0, 0, 0.5, 0, 0.5, 1, 0, 1),))


def pixels(value) -> np.ndarray:
    return np.array(read_picture(value))


def test_a_target():
    assert np.array_equal(pixels(TargetPicture(COFFEE, 400)), pixels(COFFEE))
    with pytest.raises(BadSample, match="600x400 pixels are too few.*401.*min_size"):
        read_picture(TargetPicture(COFFEE, 401))


def test_a_crop_is_cut_to_the_pixel():
    crop = SubjectCrop(COFFEE, (0.25, 0.5, 0.5, 1.0))
    assert np.array_equal(pixels(crop), pixels(COFFEE)[200:400, 150:300])
    assert np.array_equal(pixels(SubjectCrop(crop, (0, 0, 1, 0.5))), pixels(COFFEE)[200:300, 150:300])  # of a crop
    with pytest.raises(BadSample, match="less than a pixel"):
        read_picture(SubjectCrop(COFFEE, (0.5, 0.5, 0.5004, 0.9)))


@pytest.mark.parametrize("background", [(1, 2, 3), 7, Image.fromarray(pictures.chelsea())])
def test_a_background_stands_where_the_mask_is_not(background):
    drawn = pixels(SubjectCrop(COFFEE, (0.25, 0, 0.75, 1), LEFT_HALF, background))
    assert np.array_equal(drawn[:, :148], pixels(COFFEE)[:, 150:298])
    behind = drawn[:, 152:]
    assert not np.array_equal(behind, pixels(COFFEE)[:, 302:450])
    if background == (1, 2, 3):
        assert (behind == (1, 2, 3)).all()
    again = pixels(SubjectCrop(COFFEE, (0.25, 0, 0.75, 1), LEFT_HALF, background))
    assert np.array_equal(drawn, again)
    assert np.array_equal(pixels(SubjectCrop(COFFEE, mask=LEFT_HALF)), pixels(COFFEE))  # its own background


def test_masks_in_three_forms_agree():
    width, height = 12, 8
    counts = (0, 6 * height, 6 * height)  # the left half; runs go down the columns
    runs = RunLengths(counts, width, height)
    buffer = io.BytesIO()
    Image.fromarray((np.arange(width) < 6)[None].repeat(height, 0).astype(np.uint8) * 255).save(buffer, "PNG")
    drawn = [pixels(SubjectCrop(COFFEE, mask=mask, background=(0, 0, 0))) for mask in (runs, buffer.getvalue())]
    assert np.array_equal(*drawn)
    assert np.array_equal(drawn[0][:, :300], pixels(COFFEE)[:, :300]) and not drawn[0][:, 300:].any()
    one = RunLengths((3, 2, 1), 2, 3).drawn((2, 3))
    assert np.array_equal(np.array(one), [[0, 255], [0, 255], [0, 0]])


def test_two_views_of_one_picture():
    both = Image.new("RGB", (16 * 3 + 2 * 32, 16 * 2 + 32))
    views = [COFFEE.resize((32, 32)), COFFEE.resize((32, 32)).rotate(90)]
    both.paste(views[0], (16, 16)), both.paste(views[1], (64, 16))
    for right in (False, True):
        assert np.array_equal(pixels(SideBySide(both, right)), np.array(views[right]))
    with pytest.raises(BadSample, match="600x400 pixels do not hold two views"):
        read_picture(SideBySide(COFFEE, padding=201))


def test_messages_call_a_picture_by_its_file(tmp_path):
    assert picture_name(SubjectCrop(TargetPicture("cat.png", 9))) == "cat.png"
    with pytest.raises(BadSample, match="absent.png: no such file"):
        read_picture(SubjectCrop(str(tmp_path / "absent.png")))
