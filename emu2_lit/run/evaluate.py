"""`evaluate`: the scores of a recipe's model: to read, to compare with the paper's, to submit."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from callbacks.in_context_pictures import curves, episodes
from callbacks.records import write_text
from callbacks.report import write_report
from emu2_lit import recipe as recipes
from emu2_lit.errors import UserError
from emu2_lit.evaluation.benchmark import Benchmark, Prediction
from emu2_lit.evaluation.benchmarks import open_benchmark
from emu2_lit.evaluation.confidence import Interval, mean_interval
from emu2_lit.evaluation.demonstrations import Features, select
from emu2_lit.evaluation.drawing_benchmark import DrawingBenchmark
from emu2_lit.evaluation.pictures import Pictures
from emu2_lit.evaluation.predictions import PredictionFiles
from emu2_lit.evaluation.prompts import shots_name
from emu2_lit.evaluation.published import published
from emu2_lit.evaluation.runner import predict
from emu2_lit.model import Emu2Generator
from emu2_lit.ranks import place
from emu2_lit.recipe.schema import Recipe
from emu2_lit.run.assemble import cluster_plugins
from emu2_lit.run.decoder import open_decoder
from emu2_lit.run.evaluate_drawings import DrawingScore, score_drawings, summary_figures
from emu2_lit.run.fit import fit_base, save_recipe
from emu2_lit.run.result import load_run
from emu2_lit.samples.seeding import hash_seed

_NOT_ASKED = ("benchmarks", "shots", "batch_size", "stop_below", "grid")  # settings that change no answer


@dataclass
class Score:
    """One benchmark with one number of shots.

    Attributes:
        score: the main figure; None without references, as on test splits, or without answers.
        answered: false where prompts of so many shots do not fit the model's positions.
        interval: of the items' mean, at 95%, where items have scores of their own.
        published: the paper's figure in the benchmark's own units (0..100), where it has one.
    """

    benchmark: str
    metric: str
    shots: str
    items: int
    score: float | None
    answered: bool = True
    figures: dict[str, float] = field(default_factory=dict)
    interval: Interval | None = None
    published: float | None = None

    @property
    def name(self) -> str:
        return f"{self.benchmark}/shots_{self.shots}"


def evaluate(recipe: Recipe) -> list[Score | DrawingScore]:
    """Score the recipe's model; the same call goes on where an earlier one was killed.

    Writes, under run.dir: recipe.yaml, predictions/ (a line per item), submissions/, in_context/ (curves and
    episodes), summary.json and report.html; for benchmarks that draw, what `score_drawings` says.

    Raises:
        UserError: no benchmarks, files that are missing, or nothing to load.
    """
    if not recipe.evaluation.benchmarks:
        raise UserError("evaluation.benchmarks: is empty; name at least one, with the folder of its files")
    opened = [open_benchmark(b.name, b.path, b.split, b.limit) for b in recipe.evaluation.benchmarks]
    asked = [one for one in opened if isinstance(one, Benchmark)]
    drawn = [one for one in opened if isinstance(one, DrawingBenchmark)]
    if recipe.model.weights and recipes.is_recipe(recipe.model.weights):
        fit_base(recipe, Path(recipe.run.dir) / "base")
    fabric = _launched(recipe)
    save_recipe(recipe, Path(recipe.run.dir))
    # The decoder first: what spreads the model over devices sees the room that is left.
    decoder = open_decoder(recipe.model.decoder, getattr(torch, recipe.model.dtype), fabric.device) if drawn else None
    model, processor = _load(recipe, fabric.device)
    run = _Evaluation(recipe, model, processor)
    scores = [score for benchmark in asked for score in run.scores(benchmark)]
    drawing = score_drawings(recipe, drawn, Emu2Generator(model, processor, decoder)) if drawn else []
    if place()[0] == 0:
        _write(recipe, asked, scores, run, drawing)
    return [*scores, *drawing]


def _launched(recipe: Recipe) -> Fabric:
    """One process per device; the items are shared among them."""
    settings = recipe.trainer
    devices = settings.devices if settings.devices != "auto" else 1
    fabric = Fabric(
        accelerator=settings.accelerator, devices=devices, num_nodes=settings.num_nodes,
        plugins=cluster_plugins(recipe),
    )  # fmt: skip
    fabric.launch()
    return fabric


def _load(recipe: Recipe, device: torch.device) -> tuple[Any, Any]:
    model = recipe.model
    if not model.weights and not model.adapter:
        raise UserError("model.weights: say what to evaluate")
    spread = device.type == "cuda" and place()[1] == 1 and torch.cuda.device_count() > 1
    return load_run(
        model.adapter or model.weights, dtype=getattr(torch, model.dtype), quantization=model.quantization,
        device_map="auto" if spread else {"": str(device)}, base=model.weights if model.adapter else None,
        preset=model.preset, tokenizer=model.tokenizer,
    )  # fmt: skip


class _Evaluation:
    """The model with what its benchmarks share."""

    def __init__(self, recipe: Recipe, model: Any, processor: Any):
        self.settings, self.folder = recipe.evaluation, Path(recipe.run.dir)
        self.model, self.processor = model, processor
        self.chat = processor.tokenizer.chat if self.settings.chat is None else self.settings.chat
        self.pictures = Pictures(model, processor, self.settings.n_query)
        self.features: dict[str, Features] = {}
        self.drawn: dict[str, tuple[int, list[Prediction]]] = {}
        self.key = _key(recipe)

    def scores(self, benchmark: Benchmark) -> Iterator[Score]:
        """One for each number of shots."""
        if self.settings.demonstrations == "rices" and any(self.settings.shots):
            self.features[benchmark.name] = Features(benchmark.support, self.pictures.features)
        for shots in sorted(self.settings.shots):
            named = shots_name(shots, self.settings.zero_shot)
            rank_zero_info(f"{benchmark.name}, {named} shots: {len(benchmark.queries)} items")
            predictions = self._predictions(benchmark, shots, named)
            yield self._score(benchmark, named, predictions)
            if predictions is not None:
                self.drawn[benchmark.name] = shots, predictions
                self._submit(benchmark, named, predictions)

    def _predictions(self, benchmark: Benchmark, shots: int, named: str) -> list[Prediction] | None:
        settings = self.settings
        files = PredictionFiles(self.folder / "predictions" / benchmark.name / f"shots_{named}-{self.key}")
        return predict(
            self.model, self.processor, benchmark, shots, how=settings.demonstrations, dialect=settings.dialect,
            zero_shot=settings.zero_shot, seed=settings.seed, batch_size=settings.batch_size, chat=self.chat,
            num_beams=settings.num_beams, length_penalty=settings.length_penalty, pictures=self.pictures,
            features=self.features.get(benchmark.name), done=files.read(), on_batch=files.append,
        )  # fmt: skip

    def _score(self, benchmark: Benchmark, named: str, predictions: list[Prediction] | None) -> Score:
        asked = benchmark.queries
        empty = Score(
            benchmark.name, benchmark.metric, named, len(asked), None,
            published=published(benchmark.name, "emu2-chat" if self.chat else "emu2", named),
        )  # fmt: skip
        if predictions is None:
            return replace(empty, answered=False)
        if not all(question.answers for question in asked):
            return empty
        figures = {name: float(value) for name, value in benchmark.score(asked, predictions).items()}
        items = [benchmark.item_score(*pair) for pair in zip(asked, predictions, strict=True)]
        defined = all(item == item for item in items)
        return replace(
            empty, score=figures[benchmark.metric], figures=figures,
            interval=mean_interval(items) if items and defined else None,
        )  # fmt: skip

    def _submit(self, benchmark: Benchmark, named: str, predictions: list[Prediction]) -> None:
        submission = benchmark.submission(benchmark.queries, predictions)
        if submission is not None and place()[0] == 0:
            name, content = submission
            path = self.folder / "submissions" / f"shots_{named}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, content if isinstance(content, str) else json.dumps(content) + "\n")

    def episodes(self, benchmark: Benchmark) -> list:
        """The first questions with what was shown and said."""
        shots, predictions = self.drawn[benchmark.name]
        how, features = self.settings.demonstrations, self.features.get(benchmark.name)
        return [
            (question, select(question, benchmark.support, shots, how, self.settings.seed, features), prediction)
            for question, prediction in zip(benchmark.queries[: self.settings.grid], predictions, strict=False)
        ]


def _key(recipe: Recipe) -> str:
    """Names what the answers depend on: predictions of other settings or weights are not taken up."""
    asked = {name: value for name, value in vars(recipe.evaluation).items() if name not in _NOT_ASKED}
    return f"{hash_seed(asked, vars(recipe.model)) % 16**8:08x}"


def _write(
    recipe: Recipe, benchmarks: list[Benchmark], scores: list[Score], run: _Evaluation, drawing: list[DrawingScore]
) -> None:
    folder = Path(recipe.run.dir)
    figures = {f"in_context/{score.name}": score.score for score in scores if score.score is not None}
    figures |= {"scores": [asdict(score) for score in scores]} | summary_figures(drawing)
    write_text(folder / "summary.json", json.dumps(figures, indent=1) + "\n")
    lines = {"this model": {score.name: score.score for score in scores}}
    paper = {score.name: score.published / 100 for score in scores if score.published is not None}
    sheets = {"curves": curves(lines | ({"paper": paper} if paper else {}))} if scores else {}
    for benchmark in benchmarks if run.settings.grid else ():
        if benchmark.name in run.drawn:
            sheets[f"episodes/{benchmark.name}"] = episodes(benchmark, run.episodes(benchmark))
    for name, sheet in sheets.items():
        path = folder / "in_context" / name / "step=0000000.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path)
    write_report(folder)
