"""DreamBench++ (https://arxiv.org/abs/2406.16855): 150 pictures of animals, people, objects and styles, 9 prompts each.

Files: images/**/NN.jpg and captions/**/NN.txt, whose first line names the subject and whose others are the prompts.
`write_layout` leaves src_image, text and tgt_image in {collection}_{NN}_{subject}/{prompt}_0, which the benchmark's own
judge (GPT-4o) reads. The prompt is the plain one: text, picture, text.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from emu2_lit.errors import UserError
from emu2_lit.evaluation.benchmarks.files import need, pictures_in
from emu2_lit.evaluation.drawing_benchmark import DrawingBenchmark, DrawingTask, Pictures, around
from emu2_lit.evaluation.encoders import Judges, read
from emu2_lit.evaluation.likeness import alike
from emu2_lit.model.weight_writing import whole_file


class DreamBenchPlus(DrawingBenchmark):
    """One picture of every prompt."""

    name, compared_with = "dreambench_plus", "the one picture shown"

    def __init__(self, folder: Path, split: str | None = None):
        images, captions = need(folder, "images", "captions", benchmark=self.name)
        self.tasks = [
            task
            for file in pictures_in(images, "**/*")
            if split is None or file.relative_to(images).parts[0] == split
            for task in _tasks(file, file.relative_to(images), captions)
        ]
        if not self.tasks:
            raise UserError(f"benchmark {self.name}: no pictures in {images / (split or '')}")

    def task_figures(self, task: DrawingTask, drawn: list[Image.Image], judges: Judges) -> dict[str, float]:
        return alike(drawn, task.references, task.text, judges)

    def write_layout(self, folder: Path, tasks: Sequence[DrawingTask], pictures: Pictures) -> None:
        for task in tasks:
            shown = {"src_image": read(task.references[0]), "tgt_image": pictures(task)[0]}
            for kind, picture in shown.items():
                with whole_file(folder / kind / f"{task.id}_0.jpg") as file:
                    picture.save(file, format="JPEG", quality=95)
            with whole_file(folder / "text" / f"{task.id}_0.txt") as file:
                file.write(task.text.encode())


def _tasks(picture: Path, place: Path, captions: Path) -> Iterator[DrawingTask]:
    caption = captions / place.with_suffix(".txt")
    if not caption.is_file():
        raise UserError(f"benchmark dreambench_plus: {caption} is missing; it names the subject of {picture}")
    subject, *prompts = [line.strip() for line in caption.read_text(encoding="utf-8").splitlines() if line.strip()]
    collection = "_".join([*place.parent.parts, place.stem, subject.replace(" ", "_")])
    for number, text in enumerate(prompts):
        yield DrawingTask(f"{collection}/{number}", with_picture(text, subject, picture), text, (picture,))


def with_picture(text: str, subject: str, picture: Path) -> tuple[str | Path, ...]:
    """The text with the picture in the place of its subject and its article; before it where it names none."""
    found = re.search(rf"\b(?:(?:an?|the)\s+)?{re.escape(subject)}\b", text, re.IGNORECASE)
    before, after = (text[: found.start()], text[found.end() :]) if found else ("", f" {text}")
    return around(before, picture, after)


BENCHMARKS = {"dreambench_plus": DreamBenchPlus}
