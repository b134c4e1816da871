"""What in-context evaluation leaves to look at: curves over shots, and episodes with predictions."""

from collections.abc import Sequence

from PIL import Image

from callbacks.grid import Cell, draw_grid
from callbacks.in_context_base import Scores
from callbacks.shot_curves import Points, draw_shot_curves
from emu2_lit.evaluation.benchmark import Benchmark, Prediction
from emu2_lit.evaluation.question import Question
from emu2_lit.samples.encoding import read_picture
from emu2_lit.samples.sample import BadSample

_SHOWN = 5  # demonstrations in a row, the last

Episode = tuple[Question, Sequence[Question], Prediction]


def curves(models: dict[str, Scores | None], when: str = "") -> Image.Image:
    """Main score over shots, one panel per benchmark, one line per model; `when` stands in the titles."""
    panels: dict[str, dict[str, Points]] = {}
    for model, scores in models.items():
        for name, score in (scores or {}).items():
            benchmark, _, shots = name.rpartition("/shots_")
            if score is not None:
                line = panels.setdefault(benchmark, {}).setdefault(model, [])
                line.append((int(shots.removesuffix("_text")), score))
    return draw_shot_curves(
        {f"{name} {when}": {m: sorted(line) for m, line in lines.items()} for name, lines in panels.items()}
    )


def episodes(benchmark: Benchmark, rows: Sequence[Episode]) -> Image.Image:
    """One row per query: its last demonstrations, then the query with what was expected and predicted."""
    shown = min([_SHOWN, *(len(demonstrations) for _, demonstrations, _ in rows)])
    cells: list[Cell] = []
    for question, demonstrations, prediction in rows:
        kept = demonstrations[len(demonstrations) - shown :]
        cells += [Cell(_picture(one), one.text, _answer(one), "", None) for one in kept]
        correct = benchmark.item_score(question, prediction) >= 0.5
        cells.append(Cell(_picture(question), question.text, _answer(question), prediction.text, correct))
    return draw_grid(cells, columns=shown + 1)


def _answer(question: Question) -> str:
    return question.answers[0] if question.answers else ""


def _picture(question: Question) -> Image.Image | None:
    try:
        return read_picture(question.images[0]) if question.images else None
    except BadSample:
        return None
