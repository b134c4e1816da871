"""CoBSAT, the image track (https://arxiv.org/abs/2402.01293): what to draw must be inferred from examples.

Files: datasets/{detail}_{object}/{value}_{object}.jpg (or those folders themselves), ten objects and ten values for
each kind of detail. In the first task of a kind the object is to be inferred and the value is said, in the second the
other way round. The prompt is "{word}: " and a picture for each example, then "{word}: ". Which words and examples are
asked is drawn with a seed of its own, so single prompts differ from the published ones.

A picture is right where CLIP (an encoder that reads texts) finds both among the task's ten options.
"""

import random
from collections import defaultdict
from pathlib import Path

from PIL import Image

from emu2_lit.errors import UserError
from emu2_lit.evaluation.benchmarks.files import pictures_in
from emu2_lit.evaluation.cobsat import cobsat_scores, judge_by_choice
from emu2_lit.evaluation.drawing_benchmark import DrawingBenchmark, DrawingTask
from emu2_lit.evaluation.encoders import Judges, PictureEncoder
from emu2_lit.samples.seeding import hash_seed

SHOTS = (2, 4, 6, 8)
PER_TASK = 1000  # prompts, as published

Grid = dict[tuple[str, str], Path]  # (object, value of the detail) -> picture


class CoBSAT(DrawingBenchmark):
    """One picture of every prompt."""

    compared_with = "the ten options of each word"

    def __init__(self, shots: int, folder: Path, split: str | None = None):
        self.name = f"cobsat_{shots}"
        grids = read_grids(folder / "datasets" if (folder / "datasets").is_dir() else folder)
        if not grids or split not in (None, *grids):
            kinds = f"kinds of detail there: {', '.join(grids)}" if grids else "expected are color_car/red_car.jpg, ..."
            raise UserError(f"benchmark {self.name}: nothing for split {split} in {folder}; {kinds}")
        self.tasks = [
            _task(kind, grids[kind], latent_object, number, shots)
            for kind in ([split] if split else grids)
            for latent_object in (True, False)
            for number in range(PER_TASK)
        ]

    def task_figures(self, task: DrawingTask, drawn: list[Image.Image], judges: Judges) -> dict[str, float]:
        reader = _reader(judges)
        if reader is None:
            return {}
        vector = reader.pictures(drawn)[0]

        def choose(_, options):
            return options[int((reader.texts(options) @ vector).argmax())]

        words = (task.extra[name] for name in ("latent", "said", "latent_options", "said_options"))
        return cobsat_scores([judge_by_choice(drawn[0], *words, choose)])

    def left_out(self, judges: Judges) -> dict[str, str]:
        why = "evaluation.encoders.clip names no weights, and it takes an encoder that reads texts"
        return {} if _reader(judges) else {"total, latent, non_latent": why}


def _reader(judges: Judges) -> PictureEncoder | None:
    return next((one for one in judges.encoders if one.text_metric), None)


def read_grids(root: Path) -> dict[str, Grid]:
    """Pictures by kind of detail, object and value."""
    grids: dict[str, Grid] = defaultdict(dict)
    for file in pictures_in(root, "*_*/*_*"):
        kind, _, thing = file.parent.name.partition("_")
        if file.stem.endswith(f"_{thing}"):
            grids[kind][thing, file.stem.removesuffix(f"_{thing}")] = file
    return dict(grids)


def _task(kind: str, grid: Grid, latent_object: bool, number: int, shots: int) -> DrawingTask:
    """One prompt; `latent` is shared by the examples and `said` is the word of the query."""
    objects, values = (sorted({words[place] for words in grid}) for place in (0, 1))
    latents, sayings = (objects, values) if latent_object else (values, objects)
    draw = random.Random(hash_seed("cobsat", kind, latent_object, number))
    latent = latents[number % len(latents)]
    known = [word for word in sayings if _cell(latent, word, latent_object) in grid]
    if len(known) <= shots:
        raise UserError(f"benchmark cobsat: {kind} has {len(known)} pictures of {latent}; {shots} shots need one more")
    *shown, said = draw.sample(known, shots + 1)
    prompt = [part for word in shown for part in (f"{word}: ", grid[_cell(latent, word, latent_object)])]
    return DrawingTask(
        id=f"{kind}_{'object' if latent_object else 'detail'}/{number}_{latent}_{'_'.join([*shown, said])}",
        prompt=(*prompt, f"{said}: "), text=f"{said} {latent}" if latent_object else f"{latent} {said}",
        extra={"latent": latent, "said": said, "latent_options": latents, "said_options": sayings},
    )  # fmt: skip


def _cell(latent: str, said: str, latent_object: bool) -> tuple[str, str]:
    return (latent, said) if latent_object else (said, latent)


BENCHMARKS = {
    f"cobsat_{shots}": lambda path, split, shots=shots: CoBSAT(shots, path, split) for shots in SHOTS
}  # fmt: skip
