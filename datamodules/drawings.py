"""Data to learn drawing from: scikit-learn's handwritten digits, whole and at some place of a black canvas.

Pictures follow the split by image of `datamodules/digits.py`.
"""

import io
import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datamodules.digits import SIZE, WORDS, held_out, load_digits, publish
from emu2_lit.evaluation.benchmarks.drawn_digits import FORMS
from emu2_lit.samples.seeding import hash_seed

VERSION = 2
PLACES = {"train": 8, "val": 1}  # canvases of each digit's picture
SIDES = (35, 42)  # of a digit on a canvas, pixels
GRID = 7  # pixels between two places of a digit


def prepare(folder: str | Path) -> Path:
    """Write images/ and the files below to `folder`, once; returns the folder.

    digits_{train,val}.jsonl: whole digits with captions; canvases_{train,val}.jsonl: digits at some place, as captions
    with boxes (GRIT's form); captions_{train,val}.jsonl: both with captions alone.
    """
    folder = Path(folder)
    marker, wanted = folder / "done.json", {"version": VERSION}
    if marker.exists() and json.loads(marker.read_text()) == wanted:
        return folder
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images, labels = load_digits()
    for split in ("train", "val"):
        chosen = [index for index in range(len(labels)) if held_out(index) == (split == "val")]
        digits = list(_digits(folder, images, labels, chosen))
        canvases = list(_canvases(folder, images, labels, chosen, PLACES[split]))
        _write(folder / f"digits_{split}.jsonl", digits)
        _write(folder / f"canvases_{split}.jsonl", canvases)
        plain = [{key: value for key, value in record.items() if key != "ref_exps"} for record in canvases]
        _write(folder / f"captions_{split}.jsonl", digits + plain)
    publish(marker, json.dumps(wanted).encode())
    return folder


def _digits(folder: Path, images: Any, labels: list[int], chosen: list[int]) -> Iterator[dict[str, Any]]:
    for index in chosen:
        name = f"images/digit_{index:04d}.png"
        publish(folder / name, _png(canvas(images[index], (0, 0, SIZE, SIZE))))
        form = FORMS[hash_seed("form", index) % len(FORMS)]
        yield {"id": f"digit_{index:04d}", "image": name, "caption": form.format(WORDS[labels[index]])}


def _canvases(folder: Path, images: Any, labels: list[int], chosen: list[int], count: int) -> Iterator[dict[str, Any]]:
    for index in chosen:
        for place in range(count):
            id = f"canvas_{index:04d}_{place}"
            box = random_box(random.Random(hash_seed("place", index, place)))
            publish(folder / f"images/{id}.png", _png(canvas(images[index], box)))
            phrase = f"a {WORDS[labels[index]]}"
            yield {"id": id, "image": f"images/{id}.png", "caption": phrase, "ref_exps": [_row(phrase, box)]}


def _row(phrase: str, box: tuple[int, ...]) -> list[float]:
    """GRIT's row of a phrase that is the whole caption: start, end, x1, y1, x2, y2 in 0..1, score."""
    return [0, len(phrase), *(round(edge / SIZE, 4) for edge in box), 1.0]


def random_box(rng: random.Random) -> tuple[int, int, int, int]:
    """A square on the canvas, at one of 25 places: x1, y1, x2, y2 in pixels."""
    side = rng.choice(SIDES)
    left, top = (rng.randrange(0, SIZE - side + 1, GRID) for _ in range(2))
    return left, top, left + side, top + side


def canvas(pixels: Any, box: tuple[int, int, int, int]) -> Image.Image:
    """8x8 grey levels 0..16, drawn into a box of a black picture of SIZE x SIZE."""
    small = Image.fromarray((np.asarray(pixels) * 255 / 16).astype("uint8"))
    picture = Image.new("L", (SIZE, SIZE))
    picture.paste(small.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.BICUBIC), box[:2])
    return picture


def _png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def _write(path: Path, records: Iterable[dict[str, Any]]) -> None:
    publish(path, "".join(json.dumps(record) + "\n" for record in records).encode())
