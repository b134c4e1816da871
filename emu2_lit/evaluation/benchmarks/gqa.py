"""GQA: questions with one answer; exact match on testdev (paper, table 10).

Files: {testdev,val,train}_balanced_questions.json {id: {imageId, question, answer}} and the pictures in images/.
"""

from pathlib import Path
from typing import Any

from emu2_lit.errors import UserError
from emu2_lit.evaluation.benchmark import Benchmark, Prediction
from emu2_lit.evaluation.benchmarks.files import each, need, read_json
from emu2_lit.evaluation.exact_match import exact_match
from emu2_lit.evaluation.question import Question


class GQA(Benchmark):
    """Open questions scored by exact match."""

    name, metric = "gqa", "exact_match"

    def __init__(self, folder: Path, split: str | None = None):
        self.queries = _read(folder, split or "testdev")
        try:
            self.support = _read(folder, "train")
        except UserError:
            self.support = []

    def item_score(self, question: Question, prediction: Prediction) -> float:
        return float(exact_match(prediction.text, question.answers[0]))

    def submission(self, questions, predictions) -> tuple[str, Any]:
        return "gqa.json", [{"questionId": p.id, "prediction": p.text} for p in predictions]


def _read(folder: Path, split: str) -> list[Question]:
    path, images = need(folder, f"{split}_balanced_questions.json", "images", benchmark="gqa")
    return list(each(list(read_json(path).items()), lambda item: _question(*item, images), path))


def _question(number: str, record: dict[str, Any], images: Path) -> Question:
    answers = (record["answer"],) if "answer" in record else ()
    return Question(str(number), (str(images / f"{record['imageId']}.jpg"),), record["question"], answers=answers)


BENCHMARKS = {"gqa": GQA}
