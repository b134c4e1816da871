"""Squares cut out of pictures, as the visual decoder learns to draw them (paper, supplement B.3)."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from PIL import Image

from emu2_lit.samples.encoding import read_picture
from emu2_lit.samples.sample import BadSample, SizedPicture, picture_name


@dataclass(frozen=True)
class SquareCut(SizedPicture):
    """A picture scaled, its aspect kept, and a square cut out of it; what is random about it is in the fields.

    Attributes:
        source: any image value.
        size: side of the square, in pixels.
        scale: the picture's shorter side is made so many times `size`.
        place: of the square, 0..1 from the top and from the left.
        min_size: pixels that the picture's shorter side needs.
    """

    source: Any
    size: int
    scale: float = 1.0
    place: tuple[float, float] = (0.5, 0.5)
    min_size: int = 0

    def picture(self) -> Image.Image:
        """Raises BadSample when it cannot be read or is too small."""
        return self._cut[0]

    @property
    def sizes(self) -> tuple[int, ...]:
        """SDXL's conditions: height and width of the picture as it was; top and left of the square in the scaled one;
        height and width of the square."""
        return self._cut[1]

    @cached_property
    def _cut(self) -> tuple[Image.Image, tuple[int, ...]]:
        image = read_picture(self.source)
        if min(image.size) < self.min_size:
            raise BadSample(
                f"{picture_name(self.source)}: {image.width}x{image.height} pixels are too few for a picture to be "
                f"drawn, each side needs {self.min_size} (data.pictures.min_size)"
            )
        factor = self.size * self.scale / min(image.size)
        width, height = (max(self.size, round(side * factor)) for side in image.size)
        top, left = (round(at * (side - self.size)) for at, side in zip(self.place, (height, width), strict=True))
        box = (left, top, left + self.size, top + self.size)
        square = image.resize((width, height), Image.Resampling.LANCZOS).crop(box)
        return square, (image.height, image.width, top, left, self.size, self.size)
