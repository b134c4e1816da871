"""How a document is learned: which of its pictures and sentences, and in which order (paper, supplement B.1).

A document is a row of groups, each a sentence with its pictures (`Part.group`). Every choice is drawn from the seed,
the epoch, the source and the sample's id alone, so no worker, rank or resume changes it.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from random import Random
from typing import Any

from emu2_lit.samples.encoding import to_segments
from emu2_lit.samples.sample import BadSample, Part, Sample
from emu2_lit.samples.seeding import hash_seed
from emu2_lit.settings import SourceSettings

Group = tuple[Part, ...]
PICTURES = ("image", "video")


@dataclass(frozen=True)
class DocumentRules:
    """`rules(sample, settings, epoch)` is the document that is learned in this epoch; conversations, and documents of
    which the importer fixed what is learned and in which order (`Sample.as_is`), stay as they are.

    At most `settings.max_images` of its pictures are kept, drawn at random, with their sentences; the sentences nearest
    to them fill what `max_length` leaves. Of a text alone it is a stretch around a sentence drawn at random. No picture
    and no sentence is ever cut. Frames of videos are drawn at random.

    Attributes:
        processor: an Emu2Processor; it counts tokens.
        max_length: tokens at most; a source's own `max_length` may be lower.
        learn_pictures: everything is learned, and a picture stands before its text as often as
            `settings.image_first` says. Otherwise the text alone, behind its picture (paper, stage 1).
    """

    processor: Any
    max_length: int
    seed: int = 0
    learn_pictures: bool = False

    def __call__(self, sample: Sample, settings: SourceSettings, epoch: int = 0) -> Sample:
        """Raises BadSample when not one sentence fits."""
        if sample.is_chat or sample.as_is:
            return sample
        rng = Random(hash_seed(self.seed, epoch, sample.source, sample.id))
        groups = [tuple(group) for _, group in groupby(sample.parts, key=lambda part: part.group)]
        kept = draw_pictures(groups, settings.max_images, rng)
        image_first = settings.image_first if self.learn_pictures else 1.0
        arranged = [arrange(group, image_first, settings.phrase_first, rng) for group in kept]
        if self.learn_pictures:
            arranged = [tuple(replace(part, learn=True) for part in group) for group in arranged]
        limit = min(self.max_length, settings.max_length or self.max_length)
        places = fitting(arranged, limit, lambda some: self._length(sample, some), rng)
        parts = tuple(part for place in places for part in arranged[place])
        return replace(sample, parts=parts, notes=(*sample.notes, *_left_out(sample.parts, parts)))

    def _length(self, sample: Sample, groups: Sequence[Group]) -> int:
        """Tokens of the document that has these groups."""
        parts = tuple(part for group in groups for part in group)
        return len(self.processor.encode_segments(to_segments(replace(sample, parts=parts)))[0])


def draw_pictures(groups: Sequence[Group], count: int, rng: Random) -> list[Group]:
    """At most `count` of the pictures, each as likely as any other; texts stay, and groups that are left empty go."""
    places = [(i, j) for i, group in enumerate(groups) for j, part in enumerate(group) if part.kind in PICTURES]
    dropped = set(shuffled(places, rng)[count:])
    kept = [tuple(part for j, part in enumerate(group) if (i, j) not in dropped) for i, group in enumerate(groups)]
    return [group for group in kept if group]


def arrange(group: Group, image_first: float, phrase_first: float, rng: Random) -> Group:
    """Each picture goes before or behind the text of its group, each phrase before or behind its box."""
    before, text, behind = [], [], []
    for part in group:
        if part.kind == "video":
            part = replace(part, value=replace(part.value, seed=int(rng.random() * 2**53)))
        if part.kind == "box" and part.value.phrase is not None:
            part = replace(part, value=part.value._replace(phrase_first=rng.random() < phrase_first))
        if part.kind not in PICTURES:
            text.append(part)
        elif rng.random() < image_first:
            before.append(part)
        else:
            behind.append(part)
    return (*before, *text, *behind)


def fitting(groups: Sequence[Group], limit: int, length: Callable[[Sequence[Group]], int], rng: Random) -> list[int]:
    """The places, in order, of the groups that make the document.

    Groups with pictures come first, in random order, then those nearest to them, while they fit. Without pictures one
    group drawn at random takes their place. A group that is too long by itself is left out.

    Args:
        limit: of `length`.
        length: tokens of a document of some groups.
    Raises:
        BadSample: no group fits.
    """
    if length(groups) <= limit:
        return list(range(len(groups)))
    ends = length(())
    sizes = [length([group]) - ends for group in groups]
    room = [place for place, size in enumerate(sizes) if size <= limit - ends]
    pictured = [place for place in room if any(part.kind in PICTURES for part in groups[place])]
    first = shuffled(pictured, rng) or shuffled(room, rng)[:1]
    others = sorted(set(room) - set(first), key=lambda place: (min(abs(place - one) for one in first), -place))
    wanted = first + others
    taken = wanted[: bisect_right(list(accumulate(sizes[place] for place in wanted)), limit - ends)]
    while taken and length([groups[place] for place in sorted(taken)]) > limit:  # neighbours may take more together
        taken.pop()
    if not taken:
        raise BadSample(f"{min(sizes) + ends} tokens are more than max_length {limit}, and no sentence can be dropped")
    return sorted(taken)


def shuffled(items: Sequence[Any], rng: Random) -> list[Any]:
    """The items in random order; unlike `Random.shuffle`, the same in every version of Python."""
    return sorted(items, key=lambda _: rng.random())


def _left_out(whole: Sequence[Part], parts: Sequence[Part]) -> list[str]:
    """What a document loses, for reports."""
    counts = []
    for name, kinds in (("pictures", PICTURES), ("texts", ("text", "box"))):
        before, after = (sum(part.kind in kinds for part in some) for some in (whole, parts))
        if after < before:
            counts.append(f"{before - after} of {before} {name}")
    return [f"left out: {', '.join(counts)}"] if counts else []
