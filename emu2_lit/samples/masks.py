"""Which pixels of a picture belong to a thing, in the forms of COCO's annotations."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from emu2_lit.model.boxes import Corners


@dataclass(frozen=True)
class Polygons:
    """Outlines x1, y1, x2, y2, ... in 0..1; what lies in any of them belongs to the thing."""

    outlines: tuple[tuple[float, ...], ...]

    @property
    def bounds(self) -> Corners:
        """The box around the thing, x1, y1, x2, y2 in 0..1."""
        columns, rows = ([value for outline in self.outlines for value in outline[axis::2]] for axis in (0, 1))
        return min(columns), min(rows), max(columns), max(rows)

    def drawn(self, size: tuple[int, int]) -> Image.Image:
        """White on black, of `size` (width, height)."""
        mask = Image.new("L", size)
        for outline in self.outlines:
            points = [(x * size[0], y * size[1]) for x, y in zip(outline[::2], outline[1::2], strict=True)]
            ImageDraw.Draw(mask).polygon(points, fill=255)
        return mask


@dataclass(frozen=True)
class RunLengths:
    """Lengths of the runs of other and own pixels in turn, down the columns of a picture of width x height."""

    counts: tuple[int, ...]
    width: int
    height: int

    @property
    def bounds(self) -> Corners | None:
        """The box around the thing, x1, y1, x2, y2 in 0..1; None where it has no pixel."""
        box = self.drawn((self.width, self.height)).getbbox()
        if box is None:
            return None
        return box[0] / self.width, box[1] / self.height, box[2] / self.width, box[3] / self.height

    def drawn(self, size: tuple[int, int]) -> Image.Image:
        """White on black, of `size` (width, height)."""
        values = np.arange(len(self.counts)) % 2 * 255
        columns = np.repeat(values.astype(np.uint8), self.counts).reshape(self.width, self.height)
        return Image.fromarray(np.ascontiguousarray(columns.T)).resize(size, Image.Resampling.NEAREST)
