"""How a sample that ends in the picture to be drawn is learned: what is shown before it (paper section 2.3.2).

The paper drops entities and box pictures at random and gives object pictures other backgrounds and crops; it gives no
rates. Every choice is drawn from the seed, the epoch, the source and the sample's id alone, as in `documents.py`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from datamodules.documents import DocumentRules, shuffled
from datamodules.pictures import PictureRules
from emu2_lit.errors import UserError
from emu2_lit.model.boxes import Corners
from emu2_lit.model.subjects import Subject
from emu2_lit.model.video import pictures_of
from emu2_lit.samples.drawn import SubjectCrop, TargetPicture
from emu2_lit.samples.sample import BadSample, Part, Sample
from emu2_lit.samples.seeding import hash_seed
from emu2_lit.settings import GenerationSettings, PictureSettings, SourceSettings


@dataclass(frozen=True)
class GenerationRules:
    """`rules(sample, settings, epoch)` is what is learned in this epoch: text, subjects, and last the picture to be
    drawn, which alone is learned.

    Captioned pictures, and captions with boxes, become text first and picture last. Of each subject at least one of
    phrase, box and picture is kept, or the caption alone speaks of it.

    Attributes:
        processor: an Emu2Processor; its picture size is the default of `varied.min_size`.
        max_length: tokens at most.
    """

    processor: Any
    max_length: int
    seed: int = 0
    varied: GenerationSettings = field(default_factory=GenerationSettings)

    def __call__(self, sample: Sample, settings: SourceSettings, epoch: int = 0) -> Sample:
        """Raises BadSample when the sample does not say what to draw."""
        rng = Random(hash_seed(self.seed, epoch, sample.source, sample.id))
        *shown, target = to_draw(shuffled((sample.parts, *sample.alternatives), rng)[0])
        subjects = [part for part in shown if part.kind == "subject"]
        kept = {id(part) for part in shuffled(subjects, rng)[: self.varied.max_subjects]}
        shown = named_once([part for part in shown if part.kind != "subject" or id(part) in kept])
        shown = [self._varied(part, rng, self._turn(sample, part.value, epoch)) for part in shown]
        shown = [part for part in shown if part.value]
        shown = inlined(shown) if rng.random() < self.varied.inline else shown
        left_out = len(subjects) - len(kept)
        return replace(
            sample,
            parts=(*shown, self._target(target)),
            grounding=any(part.kind == "subject" and part.value.box is not None for part in shown),
            notes=(*sample.notes, *([f"left out: {left_out} of {len(subjects)} subjects"] if left_out else [])),
        )

    def every_picture(self, sample: Sample) -> Iterator[Any]:
        """All that any epoch may show, where `varied.variants` or rates of 0 limit what that can be.

        Raises BadSample when the sample does not say what to draw."""
        for parts in (sample.parts, *sample.alternatives):
            *shown, target = to_draw(parts)
            for part in shown:
                if part.kind == "subject":
                    turns = [self._turn(sample, part.value, turn) for turn in range(max(self.varied.variants, 1))]
                    drawn = [self._pictured(part.value.picture, rng or Random(0)) for rng in turns]
                    yield from replace(part.value, picture=None).pictures
                    yield from (picture for picture in drawn if picture is not None)
            yield from (part.value for part in shown if part.kind == "image")
            yield self._target(target).value

    def _target(self, part: Part) -> Part:
        least = self.processor.image_size if self.varied.min_size is None else self.varied.min_size
        return Part("image", TargetPicture(part.value, least), learn=True)

    def _turn(self, sample: Sample, subject: Any, epoch: int) -> Random | None:
        """What a subject's picture is drawn by, where the variants of it are few and used in turn."""
        if not self.varied.variants or not isinstance(subject, Subject):
            return None
        about = repr((subject.box, subject.span))
        return Random(hash_seed(self.seed, "variant", epoch % self.varied.variants, sample.source, sample.id, about))

    def _varied(self, part: Part, rng: Random, turn: Random | None) -> Part:
        if part.kind != "subject":
            return replace(part, learn=False)
        subject = self._dropped(part.value, rng)
        return replace(part, value=replace(subject, picture=self._pictured(subject.picture, turn or rng)))

    def _dropped(self, subject: Subject, rng: Random) -> Subject:
        rates = {"phrase": self.varied.drop_phrase, "box": self.varied.drop_box, "picture": self.varied.drop_object}
        known = [name for name in rates if getattr(subject, name) is not None]
        dropped = [name for name in known if rng.random() < rates[name]]
        if len(dropped) == len(known) and subject.span is None:  # nothing else speaks of it
            dropped = shuffled(dropped, rng)[1:]
        return replace(subject, **dict.fromkeys(dropped))

    def _pictured(self, picture: Any, rng: Random) -> Any:
        """An object picture with its edges moved and another background, as often as the settings say."""
        if picture is None:
            return None
        crop = picture if isinstance(picture, SubjectCrop) else SubjectCrop(picture)
        if rng.random() < self.varied.random_crop:
            crop = replace(crop, corners=moved(crop.corners, self.varied.crop_shift, rng))
        if crop.mask is not None and rng.random() < self.varied.random_background:
            crop = replace(crop, background=draw_background(self.varied.backgrounds, rng))
        return crop


def to_draw(parts: Sequence[Part]) -> list[Part]:
    """The parts with the picture to be drawn last; a caption with boxes becomes a text and its subjects.

    Raises:
        BadSample: it is not clear which picture is to be drawn, or there is a video or a conversation.
    """
    if any(part.role != "none" for part in parts):
        raise BadSample("a conversation is not drawn; generation needs captions, edits or subjects with a picture")
    if any(part.kind == "video" for part in parts):
        raise BadSample("a video is not drawn; generation needs pictures")
    pictures = [place for place, part in enumerate(parts) if part.kind == "image"]
    if not pictures or (len(pictures) > 1 and pictures[-1] < len(parts) - 1):
        raise BadSample(f"{len(pictures)} pictures, and none stands last: which one is to be drawn is not clear")
    target = parts[pictures[-1]]
    shown = [part for place, part in enumerate(parts) if place != pictures[-1]]
    return [*(grounded(shown, target.value) if any(part.kind == "box" for part in shown) else shown), target]


def grounded(parts: Sequence[Part], picture: Any) -> list[Part]:
    """A caption, and the boxes in it as subjects that are cut out of the picture."""
    caption, subjects = "", []
    for part in parts:
        if part.kind == "text":
            caption += part.value
            continue
        words = part.value.phrase or ""
        span = (len(caption), len(caption) + len(words))
        for corners, mask in part.value.each:
            crop = SubjectCrop(picture, corners, mask)
            subjects.append(Part("subject", Subject(part.value.phrase, corners, crop, span)))
        caption += words
    return [Part("text", caption), *subjects]


def named_once(parts: Sequence[Part]) -> list[Part]:
    """Of subjects that share their words in the caption only the first is named."""
    named, result = set(), []
    for part in parts:
        span = part.value.span if part.kind == "subject" else None
        result.append(replace(part, value=replace(part.value, phrase=None)) if span in named else part)
        named |= {span} - {None}
    return result


def inlined(parts: Sequence[Part]) -> list[Part]:
    """A caption with its subjects in the places of their words, as the paper writes it; what has no words there stays
    behind it. Other samples stay as they are."""
    if not parts or parts[0].kind != "text" or any(part.kind != "subject" for part in parts[1:]):
        return list(parts)
    caption, pieces, end = parts[0].value, [], 0
    named = sorted((part for part in parts[1:] if part.value.span), key=lambda part: part.value.span)
    for part in named:
        start, stop = part.value.span
        if start >= end:  # else another subject with the same words came before
            pieces += [Part("text", caption[end:start])]
            end = stop
        pieces.append(part)
    pieces.append(Part("text", caption[end:]))
    pieces += [part for part in parts[1:] if not part.value.span]
    return [part for part in pieces if part.kind != "text" or part.value.strip()]


def moved(corners: Corners, shift: float, rng: Random) -> Corners:
    """Corners of which every edge is moved by up to `shift` of the width or height, inside the picture."""
    x1, y1, x2, y2 = corners
    reach = ((x2 - x1) * shift, (y2 - y1) * shift) * 2
    edges = [edge + (2 * rng.random() - 1) * most for edge, most in zip(corners, reach, strict=True)]
    return tuple(min(max(edge, 0.0), 1.0) for edge in edges)


def draw_background(folder: str | None, rng: Random) -> Any:
    """White, black, a colour, noise or, where there is a folder, a picture of it: a value of `SubjectCrop`."""
    files = background_files(folder) if folder else []
    kind, value = int(rng.random() * (5 if files else 4)), rng.random()
    if kind < 2:
        return (255 * kind,) * 3
    if kind == 2:
        colour = int(value * 256**3)
        return (colour >> 16, colour >> 8 & 255, colour & 255)
    return int(value * 2**53) if kind == 3 else str(files[int(value * len(files))])


@cache
def background_files(folder: str) -> list[Path]:
    """The pictures of a folder. Raises UserError when there is none."""
    path = Path(folder).expanduser()
    files = pictures_of(path) if path.is_dir() else []
    if not files:
        raise UserError(f"data.generation.backgrounds: {folder} is no folder with pictures")
    return files


def rules_for(
    processor: Any, max_length: int, seed: int = 0, learn_pictures: bool = False,
    generation: GenerationSettings | None = None, pictures: PictureSettings | None = None,
) -> DocumentRules | GenerationRules | PictureRules:  # fmt: skip
    """How documents are learned; `generation` makes them samples of generation tuning, `pictures` of the decoder's."""
    if pictures is not None:
        return PictureRules(processor, max_length, pictures, seed)
    if generation is None:
        return DocumentRules(processor, max_length, seed, learn_pictures)
    return GenerationRules(processor, max_length, seed, generation)
