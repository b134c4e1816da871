"""Sheets of drawn pictures."""

from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from callbacks.grid import Cell, draw_grid
from emu2_lit.evaluation.drawing_benchmark import DrawingTask
from emu2_lit.evaluation.encoders import read
from emu2_lit.model.subjects import Subject, pictures_of

_SIDE = 256  # pixels of a picture on a sheet
_WIDEST = 8  # pictures in a row

Captioned = tuple[Image.Image | None, str]


def sheet(rows: Sequence[Sequence[Captioned]]) -> Image.Image:
    """Rows of pictures with a text under each; all rows are as long as the longest."""
    columns = max(map(len, rows), default=1)
    padded = [[*row, *[(None, "")] * (columns - len(row))] for row in rows]
    return draw_grid((Cell(picture, text, "", "", None) for row in padded for picture, text in row), columns, _SIDE)


def tasks_sheet(tasks: Sequence[DrawingTask], drawn: Callable[[DrawingTask], list[Image.Image]], limit: int):
    """One row for each of `limit` tasks, evenly spread: the pictures of its prompt, then what was drawn."""
    count = min(limit, len(tasks))
    chosen = [tasks[place * len(tasks) // count] for place in range(count)]
    return sheet([[*shown(task.prompt), *((one, "drawn") for one in drawn(task))][:_WIDEST] for task in chosen])


def shown(prompt: Sequence[Any]) -> list[Captioned]:
    """The pictures of a prompt, the whole of it in words under the first."""
    pictures = [picture for part in prompt for picture in pictures_of(part)] or [None]
    words = "".join(_words(part) for part in prompt)
    return [(picture if picture is None else read(picture), "" if place else words)
            for place, picture in enumerate(pictures)]  # fmt: skip


def _words(part: Any) -> str:
    if isinstance(part, Subject):
        return f"[{part.phrase or 'subject'}]"
    return part if isinstance(part, str) else "[picture]"
