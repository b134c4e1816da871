"""The one record that every data format becomes."""

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from PIL.Image import Image

from emu2_lit.model.boxes import Corners

Kind = Literal["text", "image", "video", "box", "subject"]
Role = Literal["system", "user", "assistant", "none"]


class BadSample(Exception):
    """A sample that cannot be learned from; the message is the reason that the ledger shows."""


def stamp_of(path: str | Path | int) -> tuple[int, int]:
    """Size and time of change of a file: whoever writes to it changes one of them."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


@dataclass(frozen=True)
class FileSlice:
    """Bytes inside a file, read when they are needed (a member of a tar, a line of a JSONL file); `stamp` is that of
    the file for which offset and size hold."""

    path: str
    offset: int
    size: int
    name: str = ""
    stamp: tuple[int, int] | None = None

    def read(self) -> bytes:
        """The bytes; raises BadSample when the file has changed or is gone."""
        try:
            with open(self.path, "rb") as file:
                if self.stamp not in (None, stamp_of(file.fileno())):
                    raise BadSample(f"{self.path} has changed since this run began to read it: restore it")
                file.seek(self.offset)
                data = file.read(self.size)
        except OSError as error:
            raise BadSample(f"cannot read {self}: {error.strerror}") from error
        if len(data) < self.size:
            raise BadSample(f"{self} is truncated: {len(data)} of {self.size} bytes")
        return data

    def __str__(self) -> str:
        return f"{self.name} in {self.path}" if self.name else self.path


class Box(NamedTuple):
    """A box on the sample's picture, x1, y1, x2, y2 in 0..1, or several of one phrase; the phrase, or None, stands
    before them or behind. `masks`: which pixels in each belong to the thing, where that is known."""

    phrase: str | None
    corners: Corners | tuple[Corners, ...]
    phrase_first: bool = True
    masks: tuple[Any, ...] = ()

    @property
    def each(self) -> list[tuple[Corners, Any]]:
        """Every box with its mask, or None."""
        boxes = self.corners if isinstance(self.corners[0], tuple) else (self.corners,)
        return list(zip(boxes, self.masks or (None,) * len(boxes), strict=True))


@dataclass(frozen=True)
class Video:
    """A video file or folder, or its frames in order (image values); `num_frames` of it are shown, evenly spread or,
    with a seed, drawn at random."""

    source: Any
    num_frames: int = 8
    seed: int | None = None

    @property
    def slots(self) -> int:
        """How many frames the model sees."""
        return min(len(self.source), self.num_frames) if isinstance(self.source, list | tuple) else self.num_frames


class DrawnPicture(ABC):
    """A picture that is made when it is needed; all that is random about it is fixed beforehand."""

    @abstractmethod
    def picture(self) -> Image:
        """In RGB; raises BadSample when it cannot be made."""


class SizedPicture(DrawnPicture):
    """A picture as the visual decoder is to draw it, and the six sizes that SDXL takes with it."""

    @property
    @abstractmethod
    def sizes(self) -> tuple[int, ...]:
        """Height and width of the whole; top and left of the cut; height and width of the cut."""


@dataclass(frozen=True)
class Part:
    """One piece of a sample.

    `value` is a str (text), an image source (path, bytes, data URI, FileSlice, PIL image or DrawnPicture), a `Video`, a
    `Box` or, in what says what to draw, a `Subject`. `learn` says whether the model is trained to produce it. In
    documents, neighbours of the same `group` belong together: a sentence and its pictures.
    """

    kind: Kind
    value: Any
    role: Role = "none"
    learn: bool = False
    group: int = 0


@dataclass(frozen=True)
class Sample:
    """An ordered list of parts. Roles are all "none" (a document) or none of them is (a conversation).

    `grounding` asks for answers, or marks a text, with boxes. `as_is`: the order of a document, and what is learned of
    it, mean something and stay. `notes` says what the importer left out, for reports. `alternatives`: the same in other
    ways, such as drawn from another picture; generation tuning draws one of all in each epoch.
    """

    id: str
    parts: tuple[Part, ...]
    grounding: bool = False
    as_is: bool = False
    source: str = ""
    notes: tuple[str, ...] = ()
    alternatives: tuple[tuple[Part, ...], ...] = ()

    @property
    def is_chat(self) -> bool:
        return any(part.role != "none" for part in self.parts)


def picture_name(value: Any) -> str:
    """How messages call a picture: its path or member name, never its bytes."""
    if isinstance(value, DrawnPicture) and hasattr(value, "source"):
        return picture_name(value.source)
    if isinstance(value, FileSlice):
        return str(value)
    if isinstance(value, str | Path):
        text = str(value)
        return text if not text.startswith("data:") else f"{text[:24]}..."
    return f"an image of {len(value)} bytes" if isinstance(value, bytes) else type(value).__name__
