"""Pictures from wherever they lie to what the tower takes."""

import base64
import binascii
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

MAX_PIXELS = 100_000_000  # a header that promises more is a mistake or an attack: decoding would fill the memory
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class ImageError(Exception):
    """A picture that cannot be read; the message says which and why."""


def load_image(source: Any, root: str | Path | None = None, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """A picture as upright RGB: camera rotation applied, transparency on white, palettes, CMYK and 16 bits resolved.

    Args:
        source: a path, bytes, a `data:` URI, or a PIL image.
        root: where relative paths start.
    Raises:
        ImageError: missing, not a picture, truncated, or larger than `max_pixels`.
    """
    if isinstance(source, Image.Image):
        return _to_rgb(source)
    name, data = _read(source, root)
    try:
        image = Image.open(io.BytesIO(data))
        if image.width * image.height > max_pixels:
            raise ImageError(f"{name}: {image.width}x{image.height} pixels, more than the {max_pixels} allowed")
        return _to_rgb(image)
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: not a picture in a known format") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: too many pixels ({error})") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # what Pillow raises for damaged files
        raise ImageError(f"{name}: damaged or truncated ({error})") from error


def _read(source: Any, root: str | Path | None) -> tuple[str, bytes]:
    if isinstance(source, bytes | bytearray):
        return "picture", bytes(source)
    if isinstance(source, str) and source.startswith("data:"):
        return "data URI", _decode_uri(source)
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        raise ImageError(f"{source}: pictures are not fetched from the web; download them first")
    path = Path(root or "", source)
    try:
        return str(path), path.read_bytes()
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file") from error
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from error


def _decode_uri(uri: str) -> bytes:
    head, comma, body = uri.partition(",")
    if not comma or not head.endswith(";base64"):
        raise ImageError(f"data URI: expected data:<type>;base64,..., got {uri[:40]!r}")
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise ImageError(f"data URI: not valid base64 ({error})") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(image, dtype=np.float32)
        peak = 65535.0 if values.max(initial=0) > 255 else 255.0
        return Image.fromarray((values / peak * 255).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def pixel_values(image: Image.Image, size: int) -> Tensor:
    """What the tower takes: squashed to a square (bicubic, aspect not kept), CLIP's mean and deviation.

    Returns:
        (3, size, size) float32.
    """
    squashed = image.resize((size, size), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(squashed, dtype=np.uint8)).permute(2, 0, 1).float() / 255
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
