"""Benchmarks that draw: pictures, figures beside the published ones, sheets to look at."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from callbacks.generation_pictures import tasks_sheet
from callbacks.records import write_text
from emu2_lit.evaluation.confidence import Interval, mean_interval
from emu2_lit.evaluation.drawing_benchmark import DrawingBenchmark
from emu2_lit.evaluation.drawing_runner import DrawnPictures, draw
from emu2_lit.evaluation.encoders import Judges, open_judges
from emu2_lit.evaluation.published import DRAWINGS
from emu2_lit.model import Emu2Generator
from emu2_lit.ranks import place
from emu2_lit.recipe.schema import Recipe
from emu2_lit.samples.seeding import hash_seed

Rows = list[tuple[str, ...]]  # of a table, its head first


@dataclass
class DrawingScore:
    """One benchmark that draws.

    Attributes:
        compared_with: what the pictures were compared with.
        figures: means over all prompts; None where one is not finite.
        intervals: at 95%, over prompts.
        published: method -> figures, on the same scale.
        left_out: figure -> why it is not there.
        logged: figure -> how the summary calls it.
    """

    benchmark: str
    compared_with: str
    prompts: int
    pictures: int
    figures: dict[str, float | None]
    intervals: dict[str, Interval] = field(default_factory=dict)
    published: dict[str, dict[str, float]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    logged: dict[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return f"{self.benchmark}: {self.prompts} prompts, {self.pictures} pictures, compared with {self.compared_with}"

    def table(self) -> Rows:
        """Published figures, ours below."""
        names = list(dict.fromkeys([*(name for row in self.published.values() for name in row), *self.figures]))
        rows = [("", *names)]
        rows += [(method, *(_told(row.get(name)) for name in names)) for method, row in self.published.items()]
        rows.append(("this model", *(_told(self.figures.get(name)) for name in names)))
        spans = (self.intervals.get(name) for name in names)
        rows.append(("95% interval", *(f"{one.low:.3f}..{one.high:.3f}" if one else "-" for one in spans)))
        return rows


def score_drawings(
    recipe: Recipe, benchmarks: Sequence[DrawingBenchmark], generator: Emu2Generator
) -> list[DrawingScore]:
    """Draw what is missing and score it.

    Writes, under run.dir: drawings/{benchmark}-{key}/ (a file per picture), generation/ (sheets, tables.json) and, for
    DreamBench++, samples/. The key names settings and weights: others start anew.
    """
    judges = open_judges(recipe.evaluation.encoders, generator.model, generator.processor, generator.device)
    scores = []
    for benchmark in benchmarks:
        pictures = DrawnPictures(_folder(recipe, benchmark), benchmark.pictures_per_task)
        rank_zero_info(f"{benchmark.name}: {len(benchmark.tasks)} prompts, pictures in {pictures.folder}")
        draw(generator, benchmark.tasks, recipe.drawing, pictures)
        if place()[0] == 0:
            scores.append(_score(benchmark, pictures, judges))
            _write_pictures(recipe, benchmark, pictures)
    if place()[0] == 0:
        tables = {score.title: score.table() for score in scores}
        write_text(Path(recipe.run.dir) / "generation" / "tables.json", json.dumps(tables, indent=1) + "\n")
    return scores


def summary_figures(scores: Sequence[DrawingScore]) -> dict[str, Any]:
    """What summary.json holds of them."""
    named = {f"generation/{one.logged[name]}": value for one in scores for name, value in one.figures.items()}
    return named | ({"drawings": [asdict(one) for one in scores]} if scores else {})


def _folder(recipe: Recipe, benchmark: DrawingBenchmark) -> Path:
    drawing = {name: value for name, value in vars(recipe.drawing).items() if name != "images_per_prompt"}
    key = hash_seed(drawing, vars(recipe.model)) % 16**8
    return Path(recipe.run.dir) / "drawings" / f"{benchmark.drawn_as or benchmark.name}-{key:08x}"


def _score(benchmark: DrawingBenchmark, pictures: DrawnPictures, judges: Judges) -> DrawingScore:
    figures, rows = benchmark.score(benchmark.tasks, pictures.read, judges)
    columns = {name: [row.get(name, math.nan) for row in rows] for name in figures}
    return DrawingScore(
        benchmark.name, benchmark.compared_with, len(rows), len(rows) * benchmark.pictures_per_task,
        {name: value if math.isfinite(value) else None for name, value in figures.items()},
        {name: mean_interval(values) for name, values in columns.items() if all(map(math.isfinite, values))},
        DRAWINGS.get(benchmark.name, {}), benchmark.left_out(judges),
        {name: benchmark.logged(name) for name in figures},
    )  # fmt: skip


def _write_pictures(recipe: Recipe, benchmark: DrawingBenchmark, pictures: DrawnPictures) -> None:
    folder = Path(recipe.run.dir)
    benchmark.write_layout(folder / "samples" / Path(recipe.name).stem, benchmark.tasks, pictures.read)
    if recipe.evaluation.grid:
        path = folder / "generation" / benchmark.name / "step=0000000.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        tasks_sheet(benchmark.tasks, pictures.read, recipe.evaluation.grid).save(path)


def _told(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
