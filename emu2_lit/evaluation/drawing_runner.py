"""Draws what a benchmark asks for: shared among ranks, and going on picture by picture where it was killed."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from emu2_lit.evaluation.drawing_benchmark import DrawingTask
from emu2_lit.evaluation.encoders import read
from emu2_lit.evaluation.runner import is_sharded
from emu2_lit.model.drawing import Emu2Generator
from emu2_lit.model.subjects import Subject
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
    todo = [task for task in tasks if task.id in mine]
    for start in range(0, len(todo), drawing.batch_size):
        group = todo[start : start + drawing.batch_size]
        for task, number, picture in _drawn(generator, group, drawing, absent, pictures.per_task):
            if rank == 0 or not together:
                pictures.write(task, number, picture)
    gathered([])  # all are there


def _drawn(
    generator: Emu2Generator, tasks: Sequence[DrawingTask], drawing: DrawingSettings,
    absent: Mapping[str, Sequence[int]], per_task: int,
) -> Iterator[tuple[DrawingTask, int, Image.Image]]:  # fmt: skip
    """The absent pictures of some tasks, numbered: together where none of a task is there yet, else one by one."""
    seeds = {task.id: hash_seed(drawing.seed, task.id) % 2**32 for task in tasks}
    whole = [task for task in tasks if len(absent[task.id]) == per_task and not _is_picture(task)]
    if whole:
        settings = replace(drawing, images_per_prompt=per_task)
        prompts, firsts = [list(task.prompt) for task in whole], [seeds[task.id] for task in whole]
        for task, drawn in zip(whole, generator.generate_all(prompts, settings, firsts), strict=True):
            yield from ((task, number, picture) for number, picture in enumerate(drawn))
    for task in (one for one in tasks if one not in whole):
        for number in absent[task.id]:
            settings = replace(drawing, seed=seeds[task.id] + number, images_per_prompt=1)
            yield task, number, generator.generate(list(task.prompt), settings)[0]


def _is_picture(task: DrawingTask) -> bool:
    """Whether the prompt is a picture alone, which is autoencoded."""
    return len(task.prompt) == 1 and not isinstance(task.prompt[0], str | Subject)
