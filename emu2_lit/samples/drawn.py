"""Pictures that are made when a sample is encoded; whatever is random about them stands in their fields."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from emu2_lit.model.boxes import Corners
from emu2_lit.samples.encoding import read_picture
from emu2_lit.samples.masks import Polygons, RunLengths
from emu2_lit.samples.sample import BadSample, DrawnPicture, picture_name

WHOLE: Corners = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class TargetPicture(DrawnPicture):
    """A picture to be drawn, which must not be small: its shorter side is `min_size` pixels at least."""

    source: Any
    min_size: int

    def picture(self) -> Image.Image:
        image = read_picture(self.source)
        if min(image.size) < self.min_size:
            raise BadSample(
                f"{picture_name(self.source)}: {image.width}x{image.height} pixels are too few for a picture to be "
                f"drawn, each side needs {self.min_size} (data.generation.min_size)"
            )
        return image


@dataclass(frozen=True)
class SideBySide(DrawnPicture):
    """One of two views that stand beside each other in one picture, each with `padding` pixels around it."""

    source: Any
    right: bool = False
    padding: int = 16

    def picture(self) -> Image.Image:
        image = read_picture(self.source)
        width, height = (image.width - 3 * self.padding) // 2, image.height - 2 * self.padding
        if min(width, height) < 1 or 2 * width + 3 * self.padding != image.width:
            raise BadSample(
                f"{picture_name(self.source)}: {image.width}x{image.height} pixels do not hold two views side by side "
                f"with {self.padding} pixels around each"
            )
        left = self.padding + self.right * (width + self.padding)
        return image.crop((left, self.padding, left + width, self.padding + height))


@dataclass(frozen=True)
class SubjectCrop(DrawnPicture):
    """A thing cut out of a picture, if wanted with another background.

    Attributes:
        source: any image value.
        corners: what is cut out, x1, y1, x2, y2 in 0..1 of the source.
        mask: which pixels of the source are the thing: a picture, white is the thing, or outlines or runs.
        background: what stands around it, where there is a mask: None, what is there; a colour (r, g, b); an int, the
            seed of noise; or an image value, squashed to the size of the cut.
    """

    source: Any
    corners: Corners = WHOLE
    mask: Any = None
    background: Any = None

    def picture(self) -> Image.Image:
        image = read_picture(self.source)
        (width, height), (x1, y1, x2, y2) = image.size, self.corners
        edges = (round(x1 * width), round(y1 * height), round(x2 * width), round(y2 * height))
        if edges[0] >= edges[2] or edges[1] >= edges[3]:
            raise BadSample(f"{picture_name(self.source)}: a box on it is less than a pixel wide or high")
        cut = image.crop(edges)
        if self.mask is None or self.background is None:
            return cut
        return Image.composite(cut, self._behind(cut.size), self._mask(image.size).crop(edges))

    def _mask(self, size: tuple[int, int]) -> Image.Image:
        if isinstance(self.mask, Polygons | RunLengths):
            return self.mask.drawn(size)
        return read_picture(self.mask).convert("L").resize(size, Image.Resampling.NEAREST)

    def _behind(self, size: tuple[int, int]) -> Image.Image:
        if isinstance(self.background, tuple):
            return Image.new("RGB", size, self.background)
        if isinstance(self.background, int):
            noise = np.random.default_rng(self.background).integers(0, 256, (size[1], size[0], 3), np.uint8)
            return Image.fromarray(noise)
        return read_picture(self.background).resize(size, Image.Resampling.BICUBIC)
