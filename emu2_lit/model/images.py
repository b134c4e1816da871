"""Pictures from wherever they lie to what the tower takes."""

import base64
import io
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

MAX_PIXELS = 89_000_000  # a header that promises more is a mistake or an attack: decoding would fill the memory
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
_TURN = Image.Transpose
_TURNS = {
    2: _TURN.FLIP_LEFT_RIGHT,
    3: _TURN.ROTATE_180,
    4: _TURN.FLIP_TOP_BOTTOM,
    5: _TURN.TRANSPOSE,
    6: _TURN.ROTATE_270,
    7: _TURN.TRANSVERSE,
    8: _TURN.ROTATE_90,
}  # EXIF orientation -> what sets it upright


class ImageError(Exception):
    """A picture that cannot be read; the message says which and why."""


def load_image(source: Any, root: str | Path | None = None, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """A picture as upright RGB: camera rotation applied, transparency on white, palettes, CMYK and 16 bits resolved.

    Args:
        source: a path, a `file://` or `data:` URI, bytes, or a PIL image.
        root: where relative paths start.
    Raises:
        ImageError: missing, not a picture, truncated, or larger than `max_pixels`.
    """
    name, image = _open(source, root)
    if image.width * image.height > max_pixels:
        raise ImageError(f"{name}: {image.width}x{image.height} pixels, more than the {max_pixels} allowed")
    try:
        rgb = _to_rgb(_upright(image))
        return rgb.copy() if rgb is source else rgb
    except Exception as error:  # decoders raise errors of every kind on damaged files
        raise ImageError(f"{name}: damaged or truncated ({error})") from error


def image_bytes(source: Any, root: str | Path | None = None) -> bytes:
    """The encoded bytes of a picture given as in `load_image`, but not as a PIL image. Raises ImageError."""
    return _read(source, root)[1]


def _open(source: Any, root: str | Path | None) -> tuple[str, Image.Image]:
    """A name for messages, and the picture with only its header read."""
    if isinstance(source, Image.Image):
        return getattr(source, "filename", None) or "picture", source
    name, data = _read(source, root)
    try:
        return name, Image.open(io.BytesIO(data))
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: not a picture in a known format") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: too many pixels ({error})") from error
    except Exception as error:  # decoders raise errors of every kind on damaged files
        raise ImageError(f"{name}: damaged or truncated ({error})") from error


def _read(source: Any, root: str | Path | None) -> tuple[str, bytes]:
    if isinstance(source, bytes | bytearray):
        return "picture", bytes(source)
    if not isinstance(source, str | Path):
        raise ImageError(f"expected a path, bytes or a picture, got {type(source).__name__}")
    if isinstance(source, str) and source.startswith("data:"):
        return "data URI", _decode_uri(source)
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        raise ImageError(f"{source}: pictures are not fetched from the web; download them first")
    if isinstance(source, str) and source.startswith("file://"):
        source = unquote(urlsplit(source).path)
    path = Path(root or "", source)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe or a device may have no end
            raise ImageError(f"{path}: not a file")
        return str(path), path.read_bytes()
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file") from error
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ImageError(f"{str(path)!r}: no path of a file ({error})") from error


def _decode_uri(uri: str) -> bytes:
    head, comma, body = uri.partition(",")
    if not comma or not head.endswith(";base64"):
        raise ImageError(f"data URI: expected data:<type>;base64,..., got {uri[:40]!r}")
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except ValueError as error:
        raise ImageError(f"data URI: not valid base64 ({error})") from error


def _upright(image: Image.Image) -> Image.Image:
    """Pillow's own exif_transpose also rewrites the camera data, and fails where any of it is malformed."""
    image.load()
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # unreadable camera data says nothing
        turn = None
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        image = _to_grey(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_grey(image: Image.Image) -> Image.Image:
    """16 bits, 32 bits or floats to 8 bits; where the mode does not say what is white, the values do."""
    values = np.asarray(image, dtype=np.float32)
    highest = values.max(initial=0)
    peaks = {"F": (1.0, 255.0), "I": (255.0,)}.get(image.mode, ())
    white = next((peak for peak in peaks if highest <= peak), 65535.0)
    return Image.fromarray((values / white * 255).clip(0, 255).round().astype(np.uint8))


def square_pixels(image: Image.Image, size: int) -> Tensor:
    """An RGB picture squashed to a square (bicubic, aspect not kept): (3, size, size) uint8, with the channels of a
    pixel beside each other in memory, as pictures have them."""
    squashed = image.resize((size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(squashed)).movedim(-1, 0)


def joined(pictures: Sequence[Tensor]) -> Tensor:
    """Stacks of pictures (n, 3, height, width) as one, without moving their channels in memory."""
    return torch.cat([one.movedim(1, -1) for one in pictures]).movedim(-1, 1) if len(pictures) > 1 else pictures[0]


def normalized(pixels: Tensor) -> Tensor:
    """uint8 pixels (..., 3, height, width) as float32 by CLIP's mean and deviation."""
    mean, deviation = (torch.tensor(values, device=pixels.device).view(3, 1, 1) for values in (MEAN, STD))
    return (pixels.contiguous().float() / 255 - mean) / deviation


def pixel_values(image: Image.Image, size: int) -> Tensor:
    """What the tower takes: `normalized` `square_pixels`, (3, size, size) float32."""
    return normalized(square_pixels(image, size))


def target_pixels(image: Image.Image) -> Tensor:
    """What the visual decoder's VAE takes: (3, height, width) float32 in -1..1."""
    return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).float() / 127.5 - 1
