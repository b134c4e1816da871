"""A benchmark of one's own: JSON or JSON lines of {id, images, question, answers[, choices, label, group]}.

Files: the file itself, or a folder with queries.jsonl and, for demonstrations, support.jsonl. `images` (or `image`) are
paths beside the file; without `choices` answers are generated and compared by exact match with any of `answers`.
"""

from pathlib import Path
from typing import Any

from emu2_lit.errors import UserError
from emu2_lit.evaluation.benchmark import Benchmark, Prediction
from emu2_lit.evaluation.benchmarks.files import each, first_of, read_lines
from emu2_lit.evaluation.exact_match import exact_match
from emu2_lit.evaluation.question import Question


class Custom(Benchmark):
    """Exact match of what is generated, or accuracy of the likeliest choice."""

    metric = "exact_match"

    def __init__(self, path: Path, split: str | None = None):
        folder = path if path.is_dir() else path.parent
        asked = path if path.is_file() else first_of(path, "queries.json*", benchmark="custom")
        self.name = path.stem
        self.queries = _read(asked)
        support = [file for file in folder.glob("support.json*") if file != asked]
        self.support = _read(support[0]) if support else self.queries
        with_choices = {bool(question.choices) for question in self.queries}
        if len(with_choices) > 1:
            raise UserError(f"{asked}: some questions have `choices` and some have none; give all or none")
        self.answer_by = "likelihood" if with_choices == {True} else "generation"

    def item_score(self, question: Question, prediction: Prediction) -> float:
        return float(any(exact_match(prediction.text, answer) for answer in question.answers))


def _read(path: Path) -> list[Question]:
    return list(each(read_lines(path), lambda record: _question(record, path.parent), path))


def _question(record: dict[str, Any], folder: Path) -> Question:
    images = record.get("images", record.get("image", []))
    answers = record.get("answers", record.get("answer", []))
    return Question(
        id=str(record["id"]), images=tuple(str(folder / image) for image in _listed(images)),
        text=record.get("question", ""), answers=tuple(_listed(answers)), choices=tuple(record.get("choices", ())),
        label=str(record.get("label", "")), group=str(record.get("group", "")),
    )  # fmt: skip


def _listed(value: Any) -> list[str]:
    if not isinstance(value, str | list):
        raise TypeError(f"{value!r} is neither a text nor a list")
    return [value] if isinstance(value, str) else [str(one) for one in value]


BENCHMARKS = {"custom": Custom}
