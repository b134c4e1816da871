"""Hateful Memes: is a picture with its text hateful? ROC-AUC of the probability of "yes".

Files: {train,dev,dev_seen,test_seen}.jsonl of {id, img, label, text} and the pictures in img/. The paper reports
test_seen; its prompt is not known, so the question asks in OpenFlamingo's words in every dialect.
"""

import csv
import io
from pathlib import Path
from typing import Any

from emu2_lit.errors import UserError
from emu2_lit.evaluation.benchmark import Benchmark, Prediction
from emu2_lit.evaluation.benchmarks.files import each, first_of, read_lines
from emu2_lit.evaluation.classification import choice_probability, roc_auc
from emu2_lit.evaluation.question import Question

_CHOICES = ("no", "yes")


class HatefulMemes(Benchmark):
    """Answered by the likelihood of yes and no."""

    name, metric, answer_by = "hateful_memes", "roc_auc", "likelihood"

    def __init__(self, folder: Path, split: str | None = None):
        self.queries = _read(folder, split or "test_seen", split or "dev_seen", split or "dev")
        try:
            self.support = _read(folder, "train")
        except UserError:
            self.support = []

    def item_score(self, question: Question, prediction: Prediction) -> float:
        return float("nan")  # an area belongs to all items together

    def score(self, questions, predictions) -> dict[str, float]:
        """ROC-AUC, and the accuracy of the likelier answer."""
        labels = [question.answers[0] == "yes" for question in questions]
        right = [p.text == q.answers[0] for q, p in zip(questions, predictions, strict=True)]
        accuracy = sum(right) / len(right) if right else float("nan")
        return {"roc_auc": roc_auc([_hate(p) for p in predictions], labels), "accuracy": accuracy}

    def submission(self, questions, predictions) -> tuple[str, str]:
        """The challenge's CSV: id, proba, label."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["id", "proba", "label"])
        for question, prediction in zip(questions, predictions, strict=True):
            probability = _hate(prediction)
            writer.writerow([question.id, f"{probability:.6f}", int(probability >= 0.5)])
        return "hateful_memes.csv", text.getvalue()


def _hate(prediction: Prediction) -> float:
    return choice_probability(prediction.scores, _CHOICES.index("yes"))


def _read(folder: Path, *splits: str) -> list[Question]:
    path = first_of(folder, *(f"{split}.jsonl" for split in splits), benchmark="hateful_memes")
    return list(each(read_lines(path), lambda record: _question(record, folder), path))


def _question(record: dict[str, Any], folder: Path) -> Question:
    asked = f"is an image with: '{record['text']}' written on it. Is it hateful? Answer:"
    return Question(
        id=str(record["id"]), images=(str(folder / record["img"]),), text=asked,
        answers=(_CHOICES[record["label"]],) if "label" in record else (), choices=_CHOICES,
        extra={"prompts": {"emu2": asked, "openflamingo": asked, "llava": asked}},
    )  # fmt: skip


BENCHMARKS = {"hateful_memes": HatefulMemes}
