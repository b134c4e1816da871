"""SEED-Bench and MMMU: questions with lettered options, of which the likeliest letter is taken.

Files: SEED-Bench.json {questions: [{question_id, data_id, question, choice_a.., answer, data_type}]} with the pictures
in SEED-Bench-image/; MMMU's {validation,dev,test}*.parquet (or .json, .jsonl) of {id, question, options, answer,
image_1..image_7}, questions naming pictures as <image 1>. The options are shown as in LLaVA-1.5's setup.
"""

import ast
import re
from pathlib import Path
from typing import Any

from emu2_lit.errors import UserError
from emu2_lit.evaluation.benchmark import Benchmark, Prediction
from emu2_lit.evaluation.benchmarks.files import each, first_of, need, read_json, read_lines
from emu2_lit.evaluation.question import Question

LETTERS = "ABCDEFGHIJ"
_TAG = re.compile(r"<image (\d)>")


class MultipleChoice(Benchmark):
    """Accuracy; the demonstrations of SEED and MMMU are none."""

    metric, answer_by = "accuracy", "likelihood"

    def item_score(self, question: Question, prediction: Prediction) -> float:
        return float(prediction.text == question.answers[0])


class SEED(MultipleChoice):
    """The questions about stills; those about videos are left out."""

    name = "seed"

    def __init__(self, folder: Path, split: str | None = None):
        path, pictures = need(folder, "SEED-Bench.json", "SEED-Bench-image", benchmark="seed")
        records = [one for one in read_json(path)["questions"] if one.get("data_type", "image") == "image"]
        self.queries = list(each(records, lambda record: _seed(record, pictures), path))

    def submission(self, questions, predictions) -> tuple[str, Any]:
        """JSON lines of {question_id, prediction}."""
        lines = (f'{{"question_id": "{p.id}", "prediction": "{p.text}"}}\n' for p in predictions)
        return "seed.jsonl", "".join(lines)


class MMMU(MultipleChoice):
    """Questions with options; open ones are left out."""

    name = "mmmu"

    def __init__(self, folder: Path, split: str | None = None):
        split = split or "validation"
        path = first_of(
            folder, *(f"{where}{split}*.{kind}" for where in ("", "**/") for kind in ("parquet", "jsonl", "json")),
            benchmark="mmmu",
        )  # fmt: skip
        records = [one for file in sorted(path.parent.glob(f"{split}*{path.suffix}")) for one in _records(file)]
        kept = [one for one in records if one.get("question_type", "multiple-choice") == "multiple-choice"]
        self.queries = list(each(kept, lambda record: _mmmu(record, folder), path))

    def submission(self, questions, predictions) -> tuple[str, Any]:
        return "mmmu.json", {prediction.id: prediction.text for prediction in predictions}


def with_options(question: str, options: list[str]) -> str:
    """A question with its options, each on a line behind its letter."""
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return "\n".join([question.strip(), *lines, "Answer with the option's letter from the given choices directly."])


def _seed(record: dict[str, Any], pictures: Path) -> Question:
    options = [record[f"choice_{letter}"] for letter in "abcd"]
    return Question(
        id=str(record["question_id"]), images=(str(pictures / record["data_id"]),),
        text=with_options(record["question"], options), answers=tuple(_listed(record.get("answer"))),
        choices=tuple(LETTERS[:4]),
    )  # fmt: skip


def _mmmu(record: dict[str, Any], folder: Path) -> Question:
    options = record["options"]
    options = ast.literal_eval(options) if isinstance(options, str) else list(options)
    asked = " ".join([record["question"], *map(str, options)])
    numbers = list(dict.fromkeys(_TAG.findall(asked))) or [str(n) for n in range(1, 8) if record.get(f"image_{n}")]
    images = [record[f"image_{number}"] for number in numbers]
    told = [_TAG.sub("the picture", str(text)) for text in (record["question"], *options)]
    return Question(
        id=str(record["id"]), images=tuple(_picture(image, folder) for image in images),
        text=with_options(told[0], told[1:]), choices=tuple(LETTERS[: len(options)]),
        answers=tuple(one for one in _listed(record.get("answer")) if one != "?"),
    )  # fmt: skip


def _listed(answer: str | None) -> list[str]:
    return [answer] if answer else []


def _picture(image: Any, folder: Path) -> Any:
    if isinstance(image, dict):
        return image["bytes"] if image.get("bytes") else str(folder / image["path"])
    return str(folder / image) if isinstance(image, str) else image


def _records(path: Path) -> list[dict[str, Any]]:
    if path.suffix != ".parquet":
        return read_lines(path)
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UserError(f"{path}: Parquet needs the `parquet` extra: pip install 'emu2-lit[parquet]'") from error
    return parquet.read_table(path).to_pylist()


BENCHMARKS = {"seed": SEED, "mmmu": MMMU}
