"""Data to learn learning in context from: scikit-learn's handwritten digits as classes with invented names.

Fast concept binding (Tsimpoukelli et al. 2021): pictures of a few classes, each followed by its class's made-up name;
the last name can only be told from the pictures before it. Many classes are made from seven digits: whole, joined from
halves and from quarters, turned and mirrored. The other three digits are kept for evaluation and occur in no training
file, in no orientation. Pictures follow the split by image of `datamodules/digits.py`.
"""

import json
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datamodules.digits import WORDS, held_out, load_digits, png, publish
from emu2_lit.samples.seeding import hash_seed

VERSION = 1
EVALUATION_DIGITS = (3, 4, 7)
TRAINING_DIGITS = tuple(digit for digit in range(10) if digit not in EVALUATION_DIGITS)
ORIENTATIONS = (
    "", ", turned left", ", upside down", ", turned right",
    ", mirrored", ", mirrored and turned left", ", mirrored and upside down", ", mirrored and turned right",
)  # fmt: skip
FAMILIES = 200  # of four classes made from quarters, much alike
WHOLE = 60  # pictures at most of each class that is a whole digit
JOINED = {"train": 12, "val": 4}  # and of each that is made from several
SIZES = {
    "captions": 40_000, "texts": 40_000, "echoes": 20_000, "episodes": 40_000, "validation": 256, "evaluation": 1_200,
}  # fmt: skip
NAMES = tuple("".join(letters) for letters in product("bdfglnprstwz", "aeiou", "bdfgklmnprstvwz"))
EVALUATION_NAMES = tuple(name for name in NAMES if hash_seed("name", name) % 10 == 0)
TRAINING_NAMES = tuple(name for name in NAMES if name not in EVALUATION_NAMES)
EVERYDAY = (
    "red green blue yellow black white orange purple brown pink circle square triangle dog cat tree grass house car "
    "left right top bottom even odd small large"
).split()


class Concept(NamedTuple):
    """A class of pictures: the digits of its quarters in reading order, and how they are turned."""

    quarters: tuple[int, int, int, int]
    orientation: int = 0

    @property
    def parts(self) -> int:
        """1: a whole digit, 2: two halves, 4: quarters."""
        first, second, third, fourth = self.quarters
        return len(set(self.quarters)) if (first, third) == (second, fourth) else 4

    def __str__(self) -> str:
        return f"{''.join(map(str, self.quarters))}_{self.orientation}"


@dataclass
class Pictures:
    """The pictures of a split by class, and groups of classes that are much alike."""

    of: dict[Concept, list[str]]
    families: list[list[Concept]]

    def concept(self, rng: random.Random) -> Concept:
        """A class: whole digits and halves more often than quarters, of which there are most."""
        return rng.choice(self._by_parts[rng.choices((1, 2, 4), (0.3, 0.45, 0.25))[0]])

    def family(self, rng: random.Random) -> list[Concept]:
        """A group, by the kind of its classes as often as these."""
        return rng.choice(self.families[:-FAMILIES] if rng.random() < 0.75 else self.families[-FAMILIES:])

    @cached_property
    def _by_parts(self) -> dict[int, list[Concept]]:
        return {parts: [concept for concept in self.of if concept.parts == parts] for parts in (1, 2, 4)}


def prepare(folder: str | Path) -> Path:
    """Write images/ and the files below to `folder`, once; returns the folder.

    captions_{train,val}.jsonl: pictures described; texts.jsonl: words that come again; text_episodes.jsonl: words with
    names; echoes.jsonl: pictures with names, where a class is always the same picture; episodes_{train,val}.jsonl:
    pictures with names; fast_binding_2way.jsonl: the evaluation.
    """
    folder = Path(folder)
    marker, wanted = folder / "done.json", {"version": VERSION, "sizes": SIZES}
    if marker.exists() and json.loads(marker.read_text()) == wanted:
        return folder
    (folder / "images").mkdir(parents=True, exist_ok=True)
    families = _families(TRAINING_DIGITS)
    train, val = _draw(folder, "train", families), _draw(folder, "val", families)
    unseen = _draw(folder, "unseen", [[Concept((digit,) * 4) for digit in EVALUATION_DIGITS]])
    for split, pictures, count in (("train", train, SIZES["captions"]), ("val", val, SIZES["validation"])):
        _write(folder / f"captions_{split}.jsonl", _captions(split, pictures, count))
    _write(folder / "texts.jsonl", _repeated_words(SIZES["texts"]))
    _write(folder / "text_episodes.jsonl", _text_episodes(SIZES["texts"]))
    _write(folder / "echoes.jsonl", _episodes("echo", train, SIZES["echoes"], again=1.0))
    for split, pictures, count in (("train", train, SIZES["episodes"]), ("val", val, SIZES["validation"])):
        _write(folder / f"episodes_{split}.jsonl", _episodes(split, pictures, count, again=0.15))
    _write(folder / "fast_binding_2way.jsonl", _evaluation(unseen, SIZES["evaluation"]))
    publish(marker, json.dumps(wanted).encode())
    return folder


# -- pictures ----------------------------------------------------------------------------------------------------
def _families(digits: tuple[int, ...]) -> list[list[Concept]]:
    """Groups of classes that differ in their turn, in one half, or in one quarter or turn."""
    turns, rng = range(len(ORIENTATIONS)), random.Random(hash_seed("families"))
    families = [[_halves(up, low, turn) for turn in turns] for up in digits for low in digits]
    families += [[_halves(up, low, turn) for low in digits] for up in digits for turn in turns]
    for _ in range(FAMILIES):
        first = Concept(tuple(rng.choices(digits, k=4)), rng.choice(turns))
        family = {first}
        while len(family) < 4:
            family.add(_relative(rng, first, digits))
        families.append(sorted(family))
    return families


def _halves(upper: int, lower: int, turn: int) -> Concept:
    return Concept((upper, upper, lower, lower), turn)


def _relative(rng: random.Random, concept: Concept, digits: tuple[int, ...]) -> Concept:
    if rng.random() < 0.5:
        return concept._replace(orientation=rng.randrange(len(ORIENTATIONS)))
    quarters = list(concept.quarters)
    quarters[rng.randrange(4)] = rng.choice(digits)
    return concept._replace(quarters=tuple(quarters))


def _draw(folder: Path, split: str, families: list[list[Concept]]) -> Pictures:
    """Write the pictures of a split."""
    levels, labels = load_digits()
    chosen: dict[int, list[int]] = defaultdict(list)
    for index, digit in enumerate(labels):
        if held_out(index) == (split != "train"):
            chosen[digit].append(index)
    names: dict[Concept, list[str]] = defaultdict(list)
    for concept in sorted({concept for family in families for concept in family}):
        for place, pixels in enumerate(_pixels(concept, levels, chosen, split)):
            name = f"images/{split}_{concept}_{place:02d}.png"
            publish(folder / name, png(_turned(pixels, concept.orientation)))
            names[concept].append(name)
    return Pictures(names, families)


def _pixels(concept: Concept, levels: Any, chosen: dict[int, list[int]], split: str) -> Iterator[Any]:
    """The pictures of a class before they are turned; quarters of one digit come from one picture."""
    rng = random.Random(hash_seed("pictures", split, concept))
    if concept.parts == 1:
        indexes = chosen[concept.quarters[0]]
        yield from (levels[index] for index in rng.sample(indexes, min(len(indexes), WHOLE)))
        return
    for _ in range(JOINED[split]):
        drawn = {digit: levels[rng.choice(chosen[digit])] for digit in sorted(set(concept.quarters))}
        left, right, below_left, below_right = (drawn[digit] for digit in concept.quarters)
        upper = np.concatenate([left[:4, :4], right[:4, 4:]], axis=1)
        lower = np.concatenate([below_left[4:, :4], below_right[4:, 4:]], axis=1)
        yield np.concatenate([upper, lower])


def _turned(pixels: Any, orientation: int) -> Any:
    """Quarter turns to the left, after mirroring for the later four."""
    pixels = pixels[:, ::-1] if orientation >= 4 else pixels
    return np.rot90(pixels, orientation % 4)


# -- records -----------------------------------------------------------------------------------------------------
def _captions(split: str, pictures: Pictures, count: int) -> Iterator[dict[str, Any]]:
    rng, concepts = random.Random(hash_seed("captions", split)), list(pictures.of)
    for place in range(count):
        concept = rng.choice(concepts)
        caption = f"a handwritten {_described(concept)}{ORIENTATIONS[concept.orientation]}"
        yield {"id": f"caption_{split}_{place:06d}", "image": rng.choice(pictures.of[concept]), "caption": caption}


def _described(concept: Concept) -> str:
    words = [WORDS[digit] for digit in concept.quarters]
    rows = [" and ".join(dict.fromkeys(row)) for row in (words[:2], words[2:])]
    return " over ".join(dict.fromkeys(rows))


def _repeated_words(count: int) -> Iterator[dict[str, Any]]:
    """A few words again and again: all but the first round can be told from what came before."""
    rng = random.Random(hash_seed("words"))
    for place in range(count):
        words = [_word(rng) for _ in range(rng.randrange(2, 8))]
        yield {"id": f"words_{place:06d}", "text": " ".join((words * 8)[:16])}


def _word(rng: random.Random) -> str:
    return rng.choice(EVERYDAY if rng.random() < 0.3 else TRAINING_NAMES)


def _text_episodes(count: int) -> Iterator[dict[str, Any]]:
    """Episodes with words in place of pictures."""
    rng = random.Random(hash_seed("text episodes"))
    for place in range(count):
        ways, words = rng.randrange(2, 5), rng.randrange(1, 4)
        keys = {" ".join(_word(rng) for _ in range(words)) for _ in range(ways)}
        shown = {key: [{"text": key}] for key in sorted(keys)}
        yield _episode(rng, f"text_{place:06d}", shown, again=0.0)


def _episodes(split: str, pictures: Pictures, count: int, again: float) -> Iterator[dict[str, Any]]:
    """Two to four classes: any, or some of a family; `again` as in `_episode`."""
    rng = random.Random(hash_seed("episodes", split))
    for place in range(count):
        ways, chosen = rng.randrange(2, 5), set[Concept]()
        if rng.random() < 0.3:
            chosen.update(rng.sample(pictures.family(rng), ways))
        while len(chosen) < ways:
            chosen.add(pictures.concept(rng))
        shown = {concept: [{"image": name} for name in pictures.of[concept]] for concept in sorted(chosen)}
        yield _episode(rng, f"episode_{split}_{place:06d}", shown, again)


def _episode(rng: random.Random, id: str, shown: dict[Any, list[dict[str, str]]], again: float) -> dict[str, Any]:
    """Ten pairs in independent order, since a balanced one would tell the last name.

    Args:
        shown: what stands for each class.
        again: the share of pairs that repeat an earlier one of the episode.
    """
    names = dict(zip(shown, rng.sample(TRAINING_NAMES, len(shown)), strict=True))
    pairs: list[dict[str, str]] = []
    for _ in range(10):
        concept = rng.choice(list(shown))
        before = [pair for pair in pairs if pair["name"] == names[concept]]
        repeats = bool(before) and rng.random() < again
        pairs.append(rng.choice(before) if repeats else {**rng.choice(shown[concept]), "name": names[concept]})
    if pairs[-1]["name"] not in {pair["name"] for pair in pairs[:-1]}:
        pairs[0] = {**rng.choice(shown[concept]), "name": names[concept]}
    return {"id": id, "support": pairs[:-1], "query": pairs[-1]}


def _evaluation(pictures: Pictures, count: int) -> Iterator[dict[str, Any]]:
    """Two unseen classes, four pictures of each in random order, and one more to be named."""
    rng = random.Random(hash_seed("evaluation"))
    for place in range(count):
        concepts, names = rng.sample(sorted(pictures.of), 2), rng.sample(EVALUATION_NAMES, 2)
        drawn = [rng.sample(pictures.of[concept], 5) for concept in concepts]
        named = list(zip(names, drawn, strict=True))
        support = [{"image": image, "name": name} for name, images in named for image in images[1:]]
        rng.shuffle(support)
        asked = rng.randrange(2)
        query = {"image": drawn[asked][0], "name": names[asked]}
        yield {"id": f"binding_{place:04d}", "support": support, "query": query}


def _write(path: Path, records: Iterator[dict[str, Any]]) -> None:
    publish(path, "".join(json.dumps(record) + "\n" for record in records).encode())
