"""A box as a picture: its white outline on black, which is how generation prompts say where an object stands
(paper section 2.3.2; line and canvas as in the published demo)."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

CANVAS = 448  # pixels of a side; boxes of generation prompts may be given in them
_REACH = 2  # pixels from the outline that are still white: OpenCV's line of "thickness 3" is 5 pixels wide


def box_picture(corners: Sequence[float]) -> Image.Image:
    """Draw the box x1, y1, x2, y2, given in 0..1.

    Corners are rounded to whole pixels, held inside the canvas and ordered. A pixel is white where its L1 distance to
    the outline is at most 2.

    Returns:
        An RGB picture of 448x448 pixels.
    """
    x1, y1, x2, y2 = (round(min(max(value, 0.0), 1.0) * CANVAS) for value in corners)
    along_x, along_y = _outside(x1, x2)[None, :], _outside(y1, y2)[:, None]
    inside = (along_x <= 0) & (along_y <= 0)
    distance = np.where(inside, -np.maximum(along_x, along_y), along_x.clip(min=0) + along_y.clip(min=0))
    return Image.fromarray(np.where(distance <= _REACH, np.uint8(255), np.uint8(0))).convert("RGB")


def _outside(one: int, other: int) -> np.ndarray:
    """How far each pixel of a side lies outside the two edges; negative between them: its distance to the nearer."""
    pixels = np.arange(CANVAS)
    return np.maximum(min(one, other) - pixels, pixels - max(one, other))
