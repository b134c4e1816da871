"""Things that a picture to be drawn shall show: what they are called, where they stand, what they look like."""

from dataclasses import dataclass
from typing import Any

from PIL import Image

from emu2_lit.model.box_picture import box_picture
from emu2_lit.model.boxes import Corners, phrase_segments
from emu2_lit.model.segments import Segment
from emu2_lit.model.special_tokens import OBJECT_BEGIN, OBJECT_END


@dataclass(frozen=True)
class Subject:
    """One thing in a generation prompt; whatever is not given is left to the model.

    Attributes:
        phrase: what it is called.
        box: x1, y1, x2, y2 in 0..1: where it is to stand; it becomes a picture.
        picture: what it looks like: a path, bytes or a PIL image.
        span: first and last+1 character of the phrase in the caption; training may put the thing there.
    """

    phrase: str | None = None
    box: Corners | None = None
    picture: Any = None
    span: tuple[int, int] | None = None

    def __bool__(self) -> bool:
        """Whether anything is known of it."""
        return any(value is not None for value in (self.phrase, self.box, self.picture))

    @property
    def pictures(self) -> list[Any]:
        """Its pictures in reading order, that of the box drawn: one for each picture among its segments."""
        drawn: list[Image.Image] = [] if self.box is None else [box_picture(self.box)]
        return drawn if self.picture is None else [*drawn, self.picture]


def pictures_of(part: Any) -> list[Any]:
    """The pictures of one part of a prompt: none of a text, those of a subject, or the part itself."""
    if isinstance(part, str):
        return []
    return part.pictures if isinstance(part, Subject) else [part]


def subject_segments(subject: Subject) -> list[Segment]:
    """`<phrase>`name`</phrase>` `<object>` box picture `</object>` object picture (paper section 2.3.2, with the
    names that the published tokenizer has); what is not known is left out."""
    segments = [] if subject.phrase is None else phrase_segments(subject.phrase)
    if subject.box is not None:
        segments += [Segment("token", OBJECT_BEGIN), Segment("image"), Segment("token", OBJECT_END)]
    return segments if subject.picture is None else [*segments, Segment("image")]
