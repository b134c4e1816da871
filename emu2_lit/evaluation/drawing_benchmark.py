"""What a benchmark with pictures for answers is: what to draw, and how the pictures are scored."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from emu2_lit.evaluation.encoders import Judges
from emu2_lit.evaluation.likeness import averaged


@dataclass(frozen=True)
class DrawingTask:
    """One prompt.

    Attributes:
        id: unique in its benchmark; the pictures' files are called so, `/` makes folders.
        prompt: texts (str) and pictures (Path) as `Emu2Generator.generate` takes them.
        text: what the pictures should show, in words; may be empty.
        references: real pictures (Path) that they are compared with.
        extra: what the metric and the published layout need besides.
    """

    id: str
    prompt: tuple[Any, ...]
    text: str = ""
    references: tuple[Path, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


def around(before: str, picture: Path, after: str) -> tuple[Any, ...]:
    """A prompt with a picture in a text. A picture alone would be autoencoded: it is given an empty text."""
    return tuple(part for part in (before, picture, after) if part) if before or after else (picture, "")


Pictures = Callable[[DrawingTask], list[Image.Image]]  # those that were drawn for a task


class DrawingBenchmark(ABC):
    """Prompts with metrics.

    Attributes:
        name: what figures are called by.
        drawn_as: what its pictures lie under; benchmarks that only score differently share them.
        pictures_per_task: drawn of each prompt, from seeds that follow each other.
        compared_with: what the pictures are compared with, told beside the figures.
        tasks: what is drawn.
    """

    name: str
    drawn_as: str = ""
    pictures_per_task: ClassVar[int] = 1
    compared_with: str = ""
    tasks: Sequence[DrawingTask]

    @abstractmethod
    def task_figures(self, task: DrawingTask, drawn: list[Image.Image], judges: Judges) -> dict[str, float]:
        """Figures of the pictures of one task."""

    def score(
        self, tasks: Sequence[DrawingTask], pictures: Pictures, judges: Judges
    ) -> tuple[dict[str, float], list[dict[str, float]]]:
        """Figures of all tasks, by default the means, and those of each."""
        rows = [self.task_figures(task, pictures(task), judges) for task in tasks]
        return averaged(rows), rows

    def logged(self, figure: str) -> str:
        """How a figure is called in logs and summaries."""
        return f"{self.name}/{figure}"

    def left_out(self, judges: Judges) -> dict[str, str]:
        """Figures that cannot be had, and why."""
        return dict(judges.left_out)

    def write_layout(self, folder: Path, tasks: Sequence[DrawingTask], pictures: Pictures) -> None:
        """Write the pictures as the benchmark's own tools expect them, where it has such."""
        return None
