"""What the visual decoder learns of a sample: a square of its last picture (paper, supplement B.3)."""

from dataclasses import dataclass, replace
from random import Random
from typing import Any

from emu2_lit.samples.sample import BadSample, Part, Sample
from emu2_lit.samples.seeding import hash_seed
from emu2_lit.samples.squares import SquareCut
from emu2_lit.settings import PictureSettings, SourceSettings


@dataclass(frozen=True)
class PictureRules:
    """`rules(sample, settings, epoch)` is the square that is learned in this epoch, of any sample with a picture.

    Its scale and place are drawn from the seed, the epoch, the source and the sample's id alone.

    Attributes:
        processor: an Emu2Processor.
        pictures: with `size` given.
    """

    processor: Any
    max_length: int
    pictures: PictureSettings
    seed: int = 0

    def __call__(self, sample: Sample, settings: SourceSettings, epoch: int = 0) -> Sample:
        """Raises BadSample when the sample has no picture."""
        pictures = [part.value for part in sample.parts if part.kind == "image"]
        if not pictures:
            raise BadSample("the sample has no picture to draw")
        rng, wanted = Random(hash_seed(self.seed, epoch, sample.source, sample.id)), self.pictures
        scale = 1 + (wanted.max_scale - 1) * rng.random()
        cut = SquareCut(pictures[-1], wanted.size, scale, (rng.random(), rng.random()), wanted.min_size)
        return replace(sample, parts=(Part("image", cut, learn=True),), grounding=False)
