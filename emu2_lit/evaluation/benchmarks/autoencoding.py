"""Autoencoding: held-out pictures, drawn again from their own embeddings.

Files: a folder of pictures, searched in depth, that neither model nor decoder has learned from. PSNR and SSIM say how
near the pixels are, encoders how near the content; FID and KID, where their network is on disk, compare the sets.
"""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from emu2_lit.errors import UserError
from emu2_lit.evaluation.benchmarks.files import pictures_in
from emu2_lit.evaluation.distances import Distances
from emu2_lit.evaluation.drawing_benchmark import DrawingBenchmark, DrawingTask, Pictures
from emu2_lit.evaluation.encoders import Judges, read
from emu2_lit.evaluation.likeness import alike, pixel_fidelity, pixels


class Autoencoding(DrawingBenchmark):
    """One picture of every picture."""

    name, compared_with = "autoencoding", "the picture itself"

    def __init__(self, folder: Path, split: str | None = None):
        root = folder / split if split else folder
        files = pictures_in(root, "**/*")
        if not files:
            raise UserError(f"benchmark autoencoding: no pictures in {root}")
        self.tasks = [DrawingTask(file.relative_to(root).as_posix(), (file,), "", (file,)) for file in files]

    def task_figures(self, task: DrawingTask, drawn: list[Image.Image], judges: Judges) -> dict[str, float]:
        return pixel_fidelity(drawn[0], read(task.references[0])) | alike(drawn, task.references, "", judges)

    def score(
        self, tasks: Sequence[DrawingTask], pictures: Pictures, judges: Judges
    ) -> tuple[dict[str, float], list[dict[str, float]]]:
        figures, rows = super().score(tasks, pictures, judges)
        if judges.inception is None:
            return figures, rows
        distances = Distances(judges.inception)
        for task in tasks:
            distances.add(pixels(read(task.references[0])), real=True)
            distances.add(pixels(pictures(task)[0]), real=False)
        return figures | distances.figures(), rows

    def left_out(self, judges: Judges) -> dict[str, str]:
        told = super().left_out(judges)
        if judges.inception is None:
            told["fid, kid"] = "evaluation.encoders.inception names no weights"
        return told


BENCHMARKS = {"autoencoding": Autoencoding}
