"""The quickstart's data: scikit-learn's handwritten digits as captions and as LLaVA conversations.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI (shipped with
    scikit-learn, no download). One split by image index serves every recipe: what is held out is in no
    training file.
"""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from emu2_lit.errors import UserError
from emu2_lit.samples.seeding import hash_seed

VERSION = 1
SIZE = 56
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
QUESTIONS: dict[str, Callable[[int], str]] = {
    "which digit is written here?": lambda digit: WORDS[digit],
    "is it even or odd?": lambda digit: "odd" if digit % 2 else "even",
    "is it greater than four?": lambda digit: "yes" if digit > 4 else "no",
    "which number comes next?": lambda digit: WORDS[digit + 1],
}


def held_out(index: int) -> bool:
    """Whether image `index` is for validation only: 20%, by a hash that never changes."""
    return hash_seed("digits", index) % 5 == 0


def prepare(folder: str | Path) -> Path:
    """Write images/ and {captions,chat}_{train,val}.json to `folder`, once; returns the folder."""
    folder = Path(folder)
    marker = folder / "done.json"
    if marker.exists() and json.loads(marker.read_text()) == {"version": VERSION}:
        return folder
    images, labels = load_digits()
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for index, pixels in enumerate(images):
        publish(folder / _image_name(index), png(pixels))
    for split, chosen in (("train", False), ("val", True)):
        digits = [(index, digit) for index, digit in enumerate(labels) if held_out(index) == chosen]
        _write(folder / f"captions_{split}.json", [_caption(index, digit) for index, digit in digits])
        chats = _training_chats if split == "train" else _validation_chats
        _write(folder / f"chat_{split}.json", [chat for index, digit in digits for chat in chats(index, digit)])
    _write(marker, {"version": VERSION})
    return folder


def load_digits() -> tuple[Any, list[int]]:
    """All pictures, (1797, 8, 8) grey levels 0..16, and what they show."""
    try:
        from sklearn import datasets
    except ImportError as error:
        raise UserError("the digits come with scikit-learn: pip install scikit-learn") from error
    digits = datasets.load_digits()
    return digits.images, [int(label) for label in digits.target]


def png(pixels: Any) -> bytes:
    """8x8 grey levels 0..16 as a picture of SIZE x SIZE."""
    small = Image.fromarray((pixels * 255 / 16).astype("uint8"))
    stream = io.BytesIO()
    small.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(stream, "PNG")
    return stream.getvalue()


def _image_name(index: int) -> str:
    return f"images/digit_{index:04d}.png"


def _caption(index: int, digit: int) -> dict[str, Any]:
    return {
        "id": f"digit_{index:04d}",
        "image": _image_name(index),
        "caption": f"a handwritten {WORDS[digit]}",
    }


def _training_chats(index: int, digit: int) -> list[dict[str, Any]]:
    """Two conversations of two turns: every question is asked once, in an order of the image's own."""
    questions = sorted(QUESTIONS, key=lambda question: hash_seed("order", index, question))
    return [_chat(index, digit, questions[start : start + 2], f"_{start // 2}") for start in (0, 2)]


def _validation_chats(index: int, digit: int) -> list[dict[str, Any]]:
    """One question, so that its answer can only come from the image."""
    question = list(QUESTIONS)[hash_seed("question", index) % len(QUESTIONS)]
    return [_chat(index, digit, [question])]


def _chat(index: int, digit: int, questions: list[str], suffix: str = "") -> dict[str, Any]:
    turns = []
    for question in questions:
        turns.append({"from": "human", "value": question if turns else f"<image>\n{question}"})
        turns.append({"from": "gpt", "value": QUESTIONS[question](digit)})
    return {"id": f"digit_{index:04d}{suffix}", "image": _image_name(index), "conversations": turns}


def _write(path: Path, content: Any) -> None:
    publish(path, (json.dumps(content, indent=1) + "\n").encode())


def publish(path: Path, data: bytes) -> None:
    """Write whole or not at all: every rank of a run may prepare the same folder, and read it at once."""
    own = path.with_name(f"{path.name}.{os.getpid()}")
    own.write_bytes(data)
    os.replace(own, path)
