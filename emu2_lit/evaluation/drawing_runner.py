"""Draws what a benchmark asks for: shared among ranks, and going on picture by picture where it was killed."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from emu2_lit.evaluation.drawing_benchmark import DrawingTask
from emu2_lit.evaluation.encoders import read
from emu2_lit.evaluation.runner import is_sharded
from emu2_lit.model.drawing import Emu2Generator
from emu2_lit.model.weight_writing import whole_file
from emu2_lit.ranks import gathered, place
from emu2_lit.samples.seeding import hash_seed
from emu2_lit.settings import DrawingSettings


class DrawnPictures:
    """A folder of `{task}_{k}.png`, whole or not there."""

    def __init__(self, folder: str | Path, per_task: int):
        self.folder, self.per_task = Path(folder), per_task

    def path(self, task: DrawingTask, number: int) -> Path:
        return self.folder / f"{task.id}_{number}.png"

    def missing(self, task: DrawingTask) -> list[int]:
        """Numbers of the pictures that are still to be drawn."""
        return [number for number in range(self.per_task) if not self.path(task, number).is_file()]

    def write(self, task: DrawingTask, number: int, picture: Image.Image) -> None:
        with whole_file(self.path(task, number)) as file:
            picture.save(file, format="PNG")

    def read(self, task: DrawingTask) -> list[Image.Image]:
        """All pictures of a task. Raises UserError where one is damaged."""
        return [read(self.path(task, number)) for number in range(self.per_task)]

    def clear(self) -> None:
        """Forget what was drawn; called on every rank."""
        if place()[0] == 0:
            shutil.rmtree(self.folder, ignore_errors=True)
        gathered([])


def draw(
    generator: Emu2Generator, tasks: Sequence[DrawingTask], drawing: DrawingSettings, pictures: DrawnPictures
) -> None:
    """Draw what is missing; every rank draws its share and returns when all is there.

    Ranks that hold only a shard of the model draw everything together, and the first one writes.

    Args:
        drawing: its seed is mixed with each task's id, so that a task's pictures do not depend on the other tasks.
    Raises:
        UserError: a picture of a prompt cannot be read, or one cannot be written.
    """
    together = is_sharded(generator.model)
    absent = {task.id: numbers for task in tasks if (numbers := pictures.missing(task))}
    absent = gathered([absent])[0]  # files may appear meanwhile: every rank plans with the first one's view
    rank, world = place()
    mine = set(absent if together else list(absent)[rank::world])
    for task in tasks:
        if task.id in mine:
            for number, picture in _drawn(generator, task, drawing, absent[task.id], pictures.per_task):
                if rank == 0 or not together:
                    pictures.write(task, number, picture)
    gathered([])  # all are there


def _drawn(
    generator: Emu2Generator, task: DrawingTask, drawing: DrawingSettings, numbers: Sequence[int], per_task: int
) -> Iterator[tuple[int, Image.Image]]:
    """The numbered pictures of a task: in one go where none is there yet, else one by one."""
    seed, whole = hash_seed(drawing.seed, task.id) % 2**32, len(numbers) == per_task
    for start in numbers[:1] if whole else numbers:
        settings = replace(drawing, seed=seed + start, images_per_prompt=per_task if whole else 1)
        yield from enumerate(generator.generate(list(task.prompt), settings), start)
