"""One page to look at when a run is over."""

import base64
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer

from callbacks.curves import chart, short_number
from callbacks.records import StepRecords, write_text
from callbacks.steps import StepCallback

_CHARTS = {
    "Loss": ("train/loss", "val/loss"),
    "Exact match": ("val/exact_match", "val/exact_match_base"),
    "Learning rate": ("train/lr",),
    "Tokens per second": ("throughput/tokens_per_second", "throughput/learned_tokens_per_second"),
}
_POSITION = re.compile(r"(.+)_position_(\d+)")
_ANSWERS = 24
_PAGE = Path(__file__).with_name("report.html")
_VALIDATION = ("val/", "in_context/", "in_context_base/", "generation/", "generation_base/")


class Report(StepCallback):
    """Writes `report.html` under the run folder: curves, the latest generated answers, final figures, where to go on.

    The curves come from `metrics.jsonl`, which grows with every log, so a resumed run keeps its past. The page is
    written when a fit or a validation ends, also when the run was stopped.
    """

    def __init__(self, run_dir: str | Path):
        self.run_dir = Path(run_dir)
        self.history = StepRecords(self.run_dir / "metrics.jsonl")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if _writes(trainer):
            self.history.rewind(trainer.global_step)
            self._note(trainer, validation=True)  # what was measured before the first step

    def on_step_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if _writes(trainer) and trainer.global_step % max(trainer.log_every_n_steps, 1) == 0:
            self._note(trainer, validation=False)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if _writes(trainer) and not trainer.sanity_checking:
            self._note(trainer, validation=True)

    def _note(self, trainer: Trainer, validation: bool) -> None:
        """Keep what has just been measured: `callback_metrics` holds older figures of the other kind too."""
        metrics = {
            name: _number(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith(_VALIDATION) == validation
        }
        if metrics:
            self.history.append([{"step": trainer.global_step, **metrics}])

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if _writes(trainer) and stage in ("fit", "validate"):
            write_report(self.run_dir)


def write_report(run_dir: str | Path) -> Path:
    """Write `report.html` from what lies in a run folder; one file that needs no other."""
    run_dir = Path(run_dir)
    series = _series(StepRecords(run_dir / "metrics.jsonl").read())
    sheets = sorted((run_dir / "samples").glob("step=*.png"))
    page = _PAGE.read_text(encoding="utf-8")
    for name, html in {
        "title": escape(str(run_dir)),
        "figures": _figures(series),
        "charts": _charts(series),
        "samples": _sheet(sheets[-1]) if sheets else "",
        "in_context": _in_context(run_dir / "in_context"),
        "generation": _generation(run_dir / "generation"),
        "answers": _answers(run_dir / "answers.jsonl"),
        "next": _next_steps(run_dir),
    }.items():
        page = page.replace("{{" + name + "}}", html)
    path = run_dir / "report.html"
    write_text(path, page)
    return path


def _series(records: list[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Name -> (step, value) in order of steps; of two records of one step the later counts."""
    by_name: dict[str, dict[int, float]] = defaultdict(dict)
    for record in records:
        for name, value in record.items():
            if name != "step" and value is not None:
                by_name[name][record["step"]] = value
    return {name: sorted(points.items()) for name, points in by_name.items()}


def _figures(series: dict[str, list[tuple[int, float]]]) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{short_number(points[-1][1])}</td><td>{points[-1][0]}</td></tr>"
        for name, points in sorted(series.items())
    )
    return f"<table class='figures'><tr><th>figure</th><th>last value</th><th>at step</th></tr>{rows}</table>"


def _charts(series: dict[str, list[tuple[int, float]]]) -> str:
    drawn = [(title, chart(lines)) for title, lines in _grouped(series)]
    return "".join(f"<figure><figcaption>{escape(title)}</figcaption>{svg}</figure>" for title, svg in drawn if svg)


def _grouped(series: dict[str, list[tuple[int, float]]]) -> Iterator[tuple[str, dict[str, list[tuple[int, float]]]]]:
    """The lines of each chart: those that belong together, each other with its twin, figures by position."""
    by_place, series = _by_place(series)
    known = {name for names in _CHARTS.values() for name in names}
    others = {name: (name, _twin(name)) for name in sorted(series) if name not in known}
    twins = {twin for _, twin in others.values()}
    for title, names in (_CHARTS | {name: pair for name, pair in others.items() if name not in twins}).items():
        yield title, {name: series[name] for name in names if name in series}
    for name, points in by_place.items():
        yield f"{name} by position", {name: points}


def _by_place(series: dict[str, list[tuple[int, float]]]) -> tuple[dict[str, list[tuple[int, float]]], dict]:
    """The latest values of figures called `..._position_07` as curves over the position, and all other series."""
    places: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for name, points in sorted(series.items()):
        if match := _POSITION.fullmatch(name):
            places[match[1]].append((int(match[2]), points[-1][1]))
    return places, {name: points for name, points in series.items() if not _POSITION.fullmatch(name)}


def _twin(name: str) -> str:
    """The same figure of the untouched model: `in_context_base/...` for `in_context/...`."""
    group, _, figure = name.partition("/")
    return f"{group}_base/{figure}"


def _sheet(path: Path, title: str = "Answers", alt: str = "pictures with questions and answers") -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    step = int(path.stem.split("=")[1])
    when = f" after {step} steps" if step else ""
    return f'<h2>{escape(title)}{when}</h2><img class="sheet" alt="{escape(alt)}" src="data:image/png;base64,{data}">'


def _in_context(folder: Path) -> str:
    """The latest curves over shots, and the latest episodes of each benchmark."""
    kinds = [(folder / "curves", "Scores over demonstrations")]
    kinds += [(one, f"Episodes of {one.name}") for one in sorted((folder / "episodes").glob("*"))]
    return _latest(kinds)


def _generation(folder: Path) -> str:
    """Tables of figures, and the latest sheet of each kind of drawings."""
    tables = folder / "tables.json"
    told = json.loads(tables.read_text(encoding="utf-8")) if tables.is_file() else {}
    html = "".join(f"<h2>{escape(title)}</h2>{_table(rows)}" for title, rows in told.items())
    return html + _latest([(one, f"Drawings: {one.name}") for one in sorted(folder.glob("*")) if one.is_dir()])


def _table(rows: list[list[str]]) -> str:
    tags = ["th", *["td"] * (len(rows) - 1)]
    cells = [[f"<{tag}>{escape(cell)}</{tag}>" for cell in row] for tag, row in zip(tags, rows, strict=True)]
    return "<table class='figures'>" + "".join(f"<tr>{''.join(row)}</tr>" for row in cells) + "</table>"


def _latest(kinds: list[tuple[Path, str]]) -> str:
    latest = [(sorted(one.glob("step=*.png")), title) for one, title in kinds]
    return "".join(_sheet(sheets[-1], title, title) for sheets, title in latest if sheets)


def _answers(path: Path) -> str:
    if not path.is_file():
        return ""
    answers = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    right = sum(answer["correct"] for answer in answers)
    rows = "".join(
        f"<tr class='{'right' if answer['correct'] else 'wrong'}'>"
        + "".join(f"<td>{escape(answer[name])}</td>" for name in ("id", "question", "answer", "prediction"))
        + "</tr>"
        for answer in answers[:_ANSWERS]
    )
    return (
        f"<details><summary>{right} of {len(answers)} right; the first {min(len(answers), _ANSWERS)} in words</summary>"
        f"<table><tr><th>id</th><th>question</th><th>reference</th><th>prediction</th></tr>{rows}</table></details>"
    )


def _next_steps(run_dir: Path) -> str:
    commands = {
        "all curves": f"tensorboard --logdir {run_dir}",
        "talk to it": f"emu2-lit chat {run_dir}",
        "hand it on": f"emu2-lit export {run_dir} --to hf --merge",
    }
    rows = "".join(f"<tr><td>{label}</td><td><code>{escape(text)}</code></td></tr>" for label, text in commands.items())
    return f"<table>{rows}</table>"


def _writes(trainer: Trainer) -> bool:
    return trainer.is_global_zero and not trainer.fast_dev_run


def _number(value: Any) -> float | None:
    """None for what is not finite, which JSON cannot say."""
    number = float(value)
    return number if math.isfinite(number) else None
