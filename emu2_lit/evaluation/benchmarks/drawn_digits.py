"""Drawn digits: does the model draw the digit that a text names, and a digit that it is shown inside a given box?

Files: those of `data.prepare: drawings` (scikit-learn's handwritten digits): digits_{train,val}.jsonl with {image,
caption}, canvases_val.jsonl with a box for each (GRIT's form). A support vector machine that learned from the real
digits of the training split judges; of the other split it tells how good a judge it is.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from PIL import Image

from emu2_lit.errors import UserError
from emu2_lit.evaluation.benchmarks.files import need, read_lines
from emu2_lit.evaluation.drawing_benchmark import DrawingBenchmark, DrawingTask, Pictures
from emu2_lit.evaluation.encoders import Judges, read
from emu2_lit.evaluation.likeness import averaged, diversity
from emu2_lit.model.subjects import Subject

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FORMS = ("a handwritten {}", "the digit {}", "draw a {}", "{}")
EACH = 200  # drawings of texts, and as many in boxes
_SIDE = 8  # pixels of what the judge looks at


class DrawnDigits(DrawingBenchmark):
    """200 drawings of texts, 200 in boxes; the digit of a box is shown as a picture and named."""

    name, compared_with = "drawn_digits", "real digits, by a classifier that learned from them"

    def __init__(self, folder: Path, split: str | None = None):
        self._files = need(folder, "digits_train.jsonl", "digits_val.jsonl", "canvases_val.jsonl", benchmark=self.name)
        self.tasks = [*_texts(), *_boxes(*self._files[1:])]

    def logged(self, figure: str) -> str:
        """The figures stand alone: generation/text_accuracy."""
        return figure

    def task_figures(self, task: DrawingTask, drawn: list[Image.Image], judges: Judges) -> dict[str, float]:
        """`{text,box}_accuracy`; in a box also `box_digit`, whether the digit is right, and `box_ink`, the share of the
        ink that lies inside: right is what is the digit and has at least half of it there."""
        wanted, box = task.extra["digit"], task.extra.get("box")
        if box is None:
            return {"text_accuracy": float(self._judged(drawn[0]) == wanted)}
        corners = tuple(round(edge * side) for edge, side in zip(box, drawn[0].size * 2, strict=True))
        right, inside = self._judged(drawn[0].crop(corners)) == wanted, ink_inside(drawn[0], corners)
        return {"box_accuracy": float(right and inside >= 0.5), "box_digit": float(right), "box_ink": inside}

    def score(
        self, tasks: Sequence[DrawingTask], pictures: Pictures, judges: Judges
    ) -> tuple[dict[str, float], list[dict[str, float]]]:
        """With `judge_accuracy`, of the judge on held-out real digits; `diversity`, the mean difference (0..1) of the
        pixels of two drawings of one text; and `relative_diversity`, that over the same of real digits of a kind."""
        rows = [self.task_figures(task, pictures(task), judges) for task in tasks]
        figures = averaged(rows) | {"judge_accuracy": self._judge.score(*self._seen(self._files[1]))}
        drawn = _by_text((task.text, pictures(task)[0]) for task in tasks if "box" not in task.extra)
        real = _by_text((row["digit"], row["image"]) for row in _records(self._files[1]))
        spread, usual = _spread(drawn), _spread({digit: found[: EACH // 10] for digit, found in real.items()})
        return figures | {"diversity": spread, "relative_diversity": spread / usual}, rows

    @cached_property
    def _judge(self) -> Any:
        try:
            from sklearn.svm import SVC
        except ImportError as error:
            raise UserError("benchmark drawn_digits needs scikit-learn: pip install scikit-learn") from error
        return SVC(C=10).fit(*self._seen(self._files[0]))

    def _seen(self, file: Path) -> tuple[np.ndarray, list[int]]:
        records = _records(file)
        return np.stack([seen(row["image"]) for row in records]), [row["digit"] for row in records]

    def _judged(self, picture: Image.Image) -> int:
        return int(self._judge.predict([seen(picture)])[0])


def seen(picture: Image.Image) -> np.ndarray:
    """What the judge looks at: 8x8 grey levels 0..1, as a row; a picture without area is black."""
    if not all(picture.size):
        return np.zeros(_SIDE * _SIDE)
    small = picture.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    return np.asarray(small, dtype=float).ravel() / 255


def ink_inside(picture: Image.Image, corners: tuple[int, int, int, int]) -> float:
    """The share of the brightness that lies inside x1, y1, x2, y2 (pixels)."""
    grey = np.asarray(picture.convert("L"), dtype=float)
    x1, y1, x2, y2 = corners
    return float(grey[y1:y2, x1:x2].sum() / max(grey.sum(), 1.0))


def _texts() -> list[DrawingTask]:
    """Every form and digit in turn."""
    return [
        DrawingTask(f"text/{place:03d}", (text,), text, extra={"digit": place % 10})
        for place in range(EACH)
        for text in [FORMS[place // 10 % len(FORMS)].format(WORDS[place % 10])]
    ]


def _boxes(digits: Path, canvases: Path) -> list[DrawingTask]:
    """The first canvases, whose digit is shown whole."""
    whole = {row["id"].removeprefix("digit_"): row["image"] for row in read_lines(digits)}
    tasks = []
    for row in read_lines(canvases)[:EACH]:
        phrase, corners = row["caption"], tuple(row["ref_exps"][0][2:6])
        shown = Subject(phrase, corners, digits.parent / whole[row["id"].split("_")[1]])
        extra = {"digit": WORDS.index(phrase.split()[-1]), "box": corners}
        tasks.append(DrawingTask(f"box/{row['id']}", (shown,), phrase, extra=extra))
    return tasks


def _records(file: Path) -> list[dict[str, Any]]:
    """Pictures with the digits that their captions name."""
    return [
        {"image": read(file.parent / row["image"]), "digit": WORDS.index(row["caption"].split()[-1])}
        for row in read_lines(file)
    ]


def _by_text(pairs: Any) -> dict[Any, list[Image.Image]]:
    groups = defaultdict(list)
    for text, picture in pairs:
        groups[text].append(picture)
    return groups


def _spread(groups: dict[Any, list[Image.Image]]) -> float:
    """The mean over groups of the difference of two pictures of a group; nan where none has two."""
    spreads = [diversity(pictures) for pictures in groups.values() if len(pictures) > 1]
    return fmean(spreads) if spreads else float("nan")


BENCHMARKS = {"drawn_digits": DrawnDigits}
