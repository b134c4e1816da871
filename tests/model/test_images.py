import base64
import io
import zlib

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from emu2_lit.model import Emu2Config
from emu2_lit.model.images import MAX_PIXELS, MEAN, STD, ImageError, joined, load_image, pixel_values, square_pixels
from emu2_lit.model.tower import Emu2Tower

RED, WHITE = (255, 0, 0), (255, 255, 255)


def saved(image, form="PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


@pytest.fixture
def picture() -> Image.Image:
    """4x2 pixels, each of its own colour."""
    values = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10
    return Image.fromarray(values)


# -- where pictures lie --------------------------------------------------------------------------------------
def test_every_source_gives_the_same_picture(picture, tmp_path):
    data = saved(picture)
    (tmp_path / "a b.png").write_bytes(data)
    uri = "data:image/png;base64," + base64.b64encode(data).decode()
    sources = [picture, data, bytearray(data), uri, tmp_path / "a b.png", str(tmp_path / "a b.png")]
    sources += [f"{uri[:40]}\n{uri[40:]}", (tmp_path / "a b.png").as_uri()]
    for source in sources:
        assert load_image(source).tobytes() == picture.tobytes()
    assert load_image("a b.png", root=tmp_path).tobytes() == picture.tobytes()


# -- forms of pictures ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_camera_rotation_is_applied_once(picture, orientation, form):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    turned = load_image(saved(picture, form, exif=exif))
    turns = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270",
             7: "TRANSVERSE", 8: "ROTATE_90"}  # fmt: skip
    expected = picture.transpose(Image.Transpose[turns[orientation]]) if orientation > 1 else picture
    assert turned.size == expected.size and turned.tobytes() == expected.tobytes()


def test_damaged_camera_data_does_not_cost_the_picture(picture):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    exif[ExifTags.Base.ResolutionUnit] = 2
    short = exif.tobytes()
    wrong_type = short.replace(b"\x01\x28\x00\x03", b"\x01\x28\x00\x07")  # a number, declared as bytes
    assert wrong_type != short
    upright = picture.transpose(Image.Transpose.ROTATE_180)
    assert load_image(saved(picture, exif=wrong_type)).tobytes() == upright.tobytes()


def test_transparency_lies_on_white():
    image = Image.new("RGBA", (2, 1), (*RED, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    assert list(load_image(saved(image)).getdata()) == [RED, WHITE]
    grey = Image.new("LA", (1, 1), (0, 0))
    assert load_image(saved(grey)).getpixel((0, 0)) == WHITE


def test_palettes_with_and_without_a_transparent_colour():
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, 0, 0, 255])
    image.putpixel((1, 0), 1)
    assert list(load_image(saved(image)).getdata()) == [RED, (0, 0, 255)]
    assert list(load_image(saved(image, transparency=1)).getdata()) == [RED, WHITE]
    assert list(load_image(saved(image, "GIF")).getdata()) == [RED, (0, 0, 255)]


def test_cmyk():
    data = saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    red, green, blue = load_image(data).getpixel((8, 8))
    assert red > 240 and green < 15 and blue < 15


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bits_keep_their_scale(form):
    values = np.array([[0, 128 * 257, 65535], [257, 1, 200]], dtype=np.uint16)
    image = load_image(saved(Image.fromarray(values), form))
    assert np.asarray(image)[..., 0].tolist() == [[0, 128, 255], [1, 0, 1]]
    dark = load_image(saved(Image.fromarray(values // 300), form))
    assert np.asarray(dark).max() <= 1, "a dark picture stays dark"


def test_integers_and_floats():
    values = np.array([[0, 128, 255]])
    assert np.asarray(load_image(Image.fromarray(values.astype(np.int32))))[0, :, 0].tolist() == [0, 128, 255]
    assert np.asarray(load_image(Image.fromarray(values.astype(np.float32))))[0, :, 0].tolist() == [0, 128, 255]
    unit = Image.fromarray((values / 255).astype(np.float32))
    assert np.asarray(load_image(unit))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16"])
def test_every_mode_becomes_rgb(mode):
    image = load_image(Image.new(mode, (3, 2)))
    assert image.mode == "RGB" and image.size == (3, 2)


# -- what is no picture --------------------------------------------------------------------------------------
def bomb(side: int) -> bytes:
    """A valid PNG header that promises side x side pixels."""

    def chunk(kind, body):
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9_600, 30_000])
def test_a_bomb_is_refused_by_its_header(side):
    assert side**2 > MAX_PIXELS
    with pytest.raises(ImageError, match="pixels"):
        load_image(bomb(side))


def test_the_limit_is_the_callers(picture):
    assert load_image(picture, max_pixels=8).size == (4, 2)
    with pytest.raises(ImageError, match="4x2 pixels, more than the 7 allowed"):
        load_image(saved(picture), max_pixels=7)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_truncated_files(form, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    file = tmp_path / "cut"
    file.write_bytes(saved(Image.fromarray(noise), form)[:-1500])
    with pytest.raises(ImageError, match=f"{file}: (damaged|not a picture)"):
        load_image(file)
    if form in ("PNG", "JPEG"):  # the header still promises a picture, so it can be handed over unread
        with pytest.raises(ImageError, match="truncated"):
            load_image(Image.open(file))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF"])
def test_damaged_files_give_a_picture_or_an_image_error(form):
    rng = np.random.default_rng(0)
    data = saved(Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)), form)
    refused = 0
    for _ in range(200):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), 3):
            damaged[place] = rng.integers(256)
        try:
            assert load_image(bytes(damaged), max_pixels=10**6).mode == "RGB"
        except ImageError:
            refused += 1
    assert refused


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("nowhere.png", "nowhere.png: no such file"),
        (".", "not a file"),
        ("a\0b.png", "no path of a file"),
        (b"", "picture: not a picture"),
        (b"<html>404</html>", "picture: not a picture in a known format"),
        ("https://example.org/a.png", "not fetched from the web"),
        ("data:image/png;base64,####", "not valid base64"),
        ("data:image/png;base64,\u00e9", "not valid base64"),
        ("data:image/png,abc", "expected data:<type>;base64"),
        ("data:image/png;base64,aGVsbG8=", "data URI: not a picture"),
        (None, "expected a path, bytes or a picture, got NoneType"),
        ({"url": "a.png"}, "got dict"),
    ],
)
def test_sources_that_are_no_picture(source, reason, tmp_path):
    with pytest.raises(ImageError, match=reason):
        load_image(source, root=tmp_path)


# -- what the tower takes ------------------------------------------------------------------------------------
def test_a_given_picture_is_not_handed_back(picture):
    """What is drawn on the one must not show on the other."""
    loaded = load_image(picture)
    loaded.putpixel((0, 0), (1, 2, 3))
    assert loaded is not picture and picture.getpixel((0, 0)) != (1, 2, 3)


def test_pictures_are_joined_as_they_lie_in_memory():
    one, two, three = (torch.randint(255, (count, 5, 4, 3), dtype=torch.uint8).movedim(-1, 1) for count in (1, 2, 1))
    together = joined([one, two, three])
    assert torch.equal(together, torch.cat([one, two, three]))
    assert together.movedim(1, -1).is_contiguous() and joined([two]) is two


def test_pixels_are_squashed_and_normalised():
    pixels = pixel_values(Image.new("RGB", (30, 7), (255, 0, 51)), 14)
    assert pixels.shape == (3, 14, 14) and pixels.dtype == torch.float32
    expected = (torch.tensor([1.0, 0.0, 0.2]) - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(pixels.mean(dim=(1, 2)), expected)


def test_the_tower_normalises_pixels_that_come_as_bytes():
    """As `pixel_values` does: training batches hold a quarter of the bytes."""
    model = Emu2Tower(Emu2Config.preset("tiny"))
    picture = Image.radial_gradient("L").convert("RGB")
    as_bytes = square_pixels(picture, 56)[None]
    assert as_bytes.dtype == torch.uint8
    with torch.no_grad():
        assert torch.equal(model.encode_image(as_bytes), model.encode_image(pixel_values(picture, 56)[None]))
