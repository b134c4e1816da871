"""Data to learn learning in context from: scikit-learn's handwritten digits as classes with invented names.

Fast concept binding (Tsimpoukelli et al. 2021): pictures of a few classes, each followed by its class's made-up name;
the last name can only be told from the pictures before it. Seven digits are turned, mirrored and joined half to half
into 392 classes to learn from; the other three are kept for evaluation and occur in no training file, in no
orientation. Pictures follow the split by image of `datamodules/digits.py`.
"""

import json
import random
from collections.abc import Iterator
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
JOINED = 16  # pictures of each pair of halves
SIZES = {"captions": 20_000, "texts": 40_000, "episodes": 40_000, "validation": 256, "evaluation": 1_200}
NAMES = tuple("".join(letters) for letters in product("bdfglnprstwz", "aeiou", "bdfgklmnprstvwz"))
EVALUATION_NAMES = tuple(name for name in NAMES if hash_seed("name", name) % 10 == 0)
TRAINING_NAMES = tuple(name for name in NAMES if name not in EVALUATION_NAMES)
EVERYDAY = (
    "red green blue yellow black white orange purple brown pink circle square triangle dog cat tree grass house car "
    "left right top bottom even odd small large"
).split()


class Concept(NamedTuple):
    """A class of pictures: the digits of its upper and lower half, and how they are turned."""

    upper: int
    lower: int
    orientation: int


def prepare(folder: str | Path) -> Path:
    """Write images/ and the files below to `folder`, once; returns the folder.

    captions_{train,val}.json: pictures described; texts.jsonl: words that come again; episodes_{train,val}.jsonl:
    pictures with names, and texts with names; fast_binding_2way.jsonl: the evaluation.
    """
    folder = Path(folder)
    marker, wanted = folder / "done.json", {"version": VERSION, "sizes": SIZES}
    if marker.exists() and json.loads(marker.read_text()) == wanted:
        return folder
    (folder / "images").mkdir(parents=True, exist_ok=True)
    train, val = _draw(folder, "train", TRAINING_DIGITS), _draw(folder, "val", TRAINING_DIGITS)
    unseen = _draw(folder, "unseen", EVALUATION_DIGITS)
    for split, pictures, count in (("train", train, SIZES["captions"]), ("val", val, SIZES["validation"])):
        _write(folder / f"captions_{split}.jsonl", _captions(split, pictures, count))
    _write(folder / "texts.jsonl", _repeated_words(SIZES["texts"]))
    _write(folder / "text_episodes.jsonl", _text_episodes(SIZES["texts"]))
    for split, pictures, count in (("train", train, SIZES["episodes"]), ("val", val, SIZES["validation"])):
        _write(folder / f"episodes_{split}.jsonl", _episodes(split, pictures, count))
    _write(folder / "fast_binding_2way.jsonl", _evaluation(unseen, SIZES["evaluation"]))
    publish(marker, json.dumps(wanted).encode())
    return folder


# -- pictures ----------------------------------------------------------------------------------------------------
def _draw(folder: Path, split: str, digits: tuple[int, ...]) -> dict[Concept, list[str]]:
    """Write the pictures of a split; their names by class. Evaluation pictures are whole and upright."""
    levels, labels = load_digits()
    chosen: dict[int, list[int]] = {digit: [] for digit in digits}
    for index, digit in enumerate(labels):
        if digit in chosen and held_out(index) == (split != "train"):
            chosen[digit].append(index)
    pictures: dict[Concept, list[str]] = {}
    for upper, lower in product(digits, digits):
        if split == "unseen" and upper != lower:
            continue
        for place, pixels in enumerate(_halves(levels, chosen[upper], chosen[lower])):
            for orientation in range(1 if split == "unseen" else len(ORIENTATIONS)):
                name = f"images/{split}_{upper}{lower}_{place:03d}_{orientation}.png"
                publish(folder / name, png(_turned(pixels, orientation)))
                pictures.setdefault(Concept(upper, lower, orientation), []).append(name)
    return pictures


def _halves(levels: Any, upper: list[int], lower: list[int]) -> Iterator[Any]:
    """Whole digits, or the upper half of one kind above the lower half of another."""
    if upper == lower:
        yield from (levels[index] for index in upper)
        return
    rng = random.Random(hash_seed("halves", upper[0], lower[0]))
    for _ in range(JOINED):
        yield np.concatenate([levels[rng.choice(upper)][:4], levels[rng.choice(lower)][4:]])


def _turned(pixels: Any, orientation: int) -> Any:
    """Quarter turns to the left, after mirroring for the later four."""
    pixels = pixels[:, ::-1] if orientation >= 4 else pixels
    return np.rot90(pixels, orientation % 4)


# -- records -----------------------------------------------------------------------------------------------------
def _captions(split: str, pictures: dict[Concept, list[str]], count: int) -> Iterator[dict[str, Any]]:
    rng = random.Random(hash_seed("captions", split))
    for place in range(count):
        concept = rng.choice(list(pictures))
        digits = [WORDS[concept.upper]] + [WORDS[concept.lower]] * (concept.upper != concept.lower)
        caption = f"a handwritten {' over '.join(digits)}{ORIENTATIONS[concept.orientation]}"
        yield {"id": f"caption_{split}_{place:06d}", "image": rng.choice(pictures[concept]), "caption": caption}


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


def _episodes(split: str, pictures: dict[Concept, list[str]], count: int) -> Iterator[dict[str, Any]]:
    """Two to four classes: any, or ones that differ only in their turn or in one half."""
    rng = random.Random(hash_seed("episodes", split))
    for place in range(count):
        ways, alike, chosen = rng.randrange(2, 5), rng.random() < 0.3, set[Concept]()
        first = _concept(rng)
        while len(chosen) < ways:
            chosen.add(_neighbour(rng, first) if alike else _concept(rng))
        shown = {concept: [{"image": name} for name in pictures[concept]] for concept in sorted(chosen)}
        yield _episode(rng, f"episode_{split}_{place:06d}", shown, again=0.2)


def _concept(rng: random.Random) -> Concept:
    upper = rng.choice(TRAINING_DIGITS)
    lower = rng.choice(TRAINING_DIGITS) if rng.random() < 0.7 else upper
    return Concept(upper, lower, rng.randrange(len(ORIENTATIONS)))


def _neighbour(rng: random.Random, concept: Concept) -> Concept:
    if rng.random() < 0.5:
        return concept._replace(orientation=rng.randrange(len(ORIENTATIONS)))
    return concept._replace(lower=rng.choice(TRAINING_DIGITS))


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


def _evaluation(pictures: dict[Concept, list[str]], count: int) -> Iterator[dict[str, Any]]:
    """Two unseen classes, four pictures of each in random order, and one more to be named."""
    rng = random.Random(hash_seed("evaluation"))
    for place in range(count):
        concepts, names = rng.sample(sorted(pictures), 2), rng.sample(EVALUATION_NAMES, 2)
        drawn = [rng.sample(pictures[concept], 5) for concept in concepts]
        named = list(zip(names, drawn, strict=True))
        support = [{"image": image, "name": name} for name, images in named for image in images[1:]]
        rng.shuffle(support)
        asked = rng.randrange(2)
        query = {"image": drawn[asked][0], "name": names[asked]}
        yield {"id": f"binding_{place:04d}", "support": support, "query": query}


def _write(path: Path, records: Iterator[dict[str, Any]]) -> None:
    publish(path, "".join(json.dumps(record) + "\n" for record in records).encode())
