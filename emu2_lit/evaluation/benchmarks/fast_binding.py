"""Fast concept binding: which of two made-up names fits a picture, told by a few pictures with their names.

Source: Tsimpoukelli et al. 2021, "Multimodal Few-Shot Learning with Frozen Language Models", section 4.3. The episodes
are fixed in one file of JSON lines: {id, support: [{image, name}, ...], query: {image, name}}, as
`datamodules/episodes.py` writes it for handwritten digits.
"""

import json
from pathlib import Path
from typing import Any

from emu2_lit.errors import UserError
from emu2_lit.evaluation.benchmark import Benchmark, Prediction
from emu2_lit.evaluation.exact_match import exact_match
from emu2_lit.evaluation.question import Question

FILE = "fast_binding_2way.jsonl"


class FastBinding(Benchmark):
    """Accuracy of the more likely name; chance is one over the number of names. Shots count per class.

    Args:
        path: the file, or the folder that holds it.
    Raises:
        UserError: it is not there, or a line of it is no episode.
    """

    metric = "accuracy"
    answer_by = "likelihood"

    def __init__(self, path: str | Path):
        path = Path(path) / FILE if Path(path).is_dir() else Path(path)
        self.name = "fast_binding_2way"
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); it holds the episodes") from error
        self.queries = [_question(line, f"{path}, line {place}", path.parent) for place, line in enumerate(lines, 1)]

    def item_score(self, question: Question, prediction: Prediction) -> float:
        return float(prediction.text == question.answers[0])


class GeneratedBinding(FastBinding):
    """The same, but the name must be written: exact match of what comes before the first period."""

    metric = "exact_match"
    answer_by = "generation"

    def __init__(self, path: str | Path, name: str = "fast_binding_2way_generated"):
        super().__init__(path)
        self.name = name

    def clean(self, text: str) -> str:
        return text.split(".", 1)[0].strip()

    def item_score(self, question: Question, prediction: Prediction) -> float:
        return float(exact_match(prediction.text, question.answers[0]))


def _question(line: str, where: str, root: Path) -> Question:
    try:
        record = json.loads(line)
        names = sorted({pair["name"] for pair in record["support"]})
        shown = [_named(record["id"], place, pair, root) for place, pair in enumerate(record["support"])]
        query = record["query"]
        return Question(
            id=record["id"], images=(str(root / query["image"]),), text="", answers=(query["name"],),
            choices=tuple(names), label=query["name"], demonstrations=tuple(shown),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where}: is no episode with id, support and query ({error!r})") from error


def _named(id: str, place: int, pair: dict[str, Any], root: Path) -> Question:
    name = pair["name"]
    return Question(f"{id}_{place}", (str(root / pair["image"]),), "", answers=(name,), label=name)


BENCHMARKS = {
    "fast_binding_2way": lambda path, split: FastBinding(path),
    "fast_binding_2way_generated": lambda path, split: GeneratedBinding(path),
    # Open-ended miniImageNet, its episodes written in this form
    "open_mini_imagenet": lambda path, split: GeneratedBinding(path, "open_mini_imagenet"),
}
