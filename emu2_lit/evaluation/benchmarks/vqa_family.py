"""VQAv2, OKVQA, VizWiz and TextVQA: short answers against those of ten people.

Files, for each split: questions JSON {questions: [{question_id, image_id, question}]} and annotations JSON
{annotations: [{question_id, image_id, answers: [{answer, ...}]}]}, under the names that the data sets are published
with (COCO's pictures in train2014/, val2014/ and test2015/), or for VizWiz and TextVQA their own single files.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emu2_lit.errors import UserError
from emu2_lit.evaluation.benchmark import Benchmark, Prediction
from emu2_lit.evaluation.benchmarks.files import each, first_of, read_json
from emu2_lit.evaluation.question import Question
from emu2_lit.evaluation.vqa import normalise_vqa, vqa_accuracy


@dataclass(frozen=True)
class Family:
    """How one member names its files; `{split}` stands for the split, patterns are tried in order.

    Attributes:
        splits: the names that a split has in files; the first is where the paper's figure was measured, and where
            demonstrations are drawn.
        picture: of an image id, by split.
    """

    name: str
    default: str
    questions: tuple[str, ...]
    annotations: tuple[str, ...]
    folders: dict[str, str]
    picture: str
    submission: str


_COCO = {"train": "train2014", "val": "val2014", "test": "test2015", "test-dev": "test-dev2015"}
FAMILIES = {
    "vqav2": Family(
        "vqav2", "val", ("v2_OpenEnded_mscoco_{coco}_questions.json",), ("v2_mscoco_{coco}_annotations.json",), _COCO,
        "{pictures}/COCO_{pictures}_{id:012d}.jpg", "vqav2_{split}.json",
    ),
    "okvqa": Family(
        "okvqa", "val", ("OpenEnded_mscoco_{coco}_questions.json",), ("mscoco_{coco}_annotations.json",), _COCO,
        "{pictures}/COCO_{pictures}_{id:012d}.jpg", "okvqa_{split}.json",
    ),
    "vizwiz": Family(
        "vizwiz", "val", ("{split}_questions*.json", "{split}.json", "Annotations/{split}.json"),
        ("{split}_annotations*.json",), {}, "{split}/{id}", "vizwiz_{split}.json",
    ),
    "textvqa": Family(
        "textvqa", "val", ("{split}_questions*.json", "TextVQA_0.5.1_{split}.json"), ("{split}_annotations*.json",), {},
        "{folder}/{id}.jpg", "textvqa_{split}.json",
    ),
}  # fmt: skip


class VQA(Benchmark):
    """Open questions scored by VQA accuracy; the training split is the support, where it lies beside.

    Args:
        family: which of the four.
        folder: where questions, annotations and pictures lie.
        split: train, val, test or test-dev.
    """

    metric = "vqa_accuracy"

    def __init__(self, family: str, folder: Path, split: str | None = None):
        self.family = FAMILIES[family]
        self.name, self.split = family, split or self.family.default
        self.folder = folder
        self.queries = _read(self.family, folder, self.split)
        self.support = _support(self.family, folder) if self.split != "train" else self.queries

    def item_score(self, question: Question, prediction: Prediction) -> float:
        return vqa_accuracy(prediction.text, question.answers)

    def score(self, questions, predictions) -> dict[str, float]:
        """VQA accuracy of the official evaluator, and of OpenFlamingo's, which normalises both sides."""
        pairs = list(zip(questions, predictions, strict=True))
        flamingo = [vqa_accuracy(p.text, q.answers, "openflamingo") for q, p in pairs]
        figures = super().score(questions, predictions)
        return figures | {"vqa_accuracy_openflamingo": sum(flamingo) / len(flamingo) if flamingo else float("nan")}

    def submission(self, questions, predictions) -> tuple[str, Any]:
        """EvalAI's lists; answers are normalised, as its judges expect."""
        pairs = zip(questions, predictions, strict=True)
        name = self.family.submission.format(split=self.split)
        if self.name == "vizwiz":
            return name, [{"image": q.extra["image"], "answer": normalise_vqa(p.text)} for q, p in pairs]
        answers = {q.extra["question_id"]: normalise_vqa(p.text) for q, p in pairs}
        if self.name == "vqav2" and self.split == "test-dev":  # the server wants every question of the whole test split
            whole = _read(self.family, self.folder, "test")
            answers = {q.extra["question_id"]: answers.get(q.extra["question_id"], "") for q in whole}
        return name, [{"question_id": number, "answer": answer} for number, answer in answers.items()]


def _support(family: Family, folder: Path) -> list[Question]:
    try:
        return _read(family, folder, "train")
    except UserError:
        return []  # a shot then says that there are no demonstrations


def _read(family: Family, folder: Path, split: str) -> list[Question]:
    names = {"split": split, "coco": family.folders.get(split, split)}
    path = first_of(folder, *(p.format(**names) for p in family.questions), benchmark=f"{family.name} ({split})")
    content = read_json(path)
    records = content if isinstance(content, list) else content.get("questions", content.get("data"))
    if not isinstance(records, list):
        raise UserError(f"{path}: holds no list of questions")
    answers = _answers(family, folder, split, names, path)
    return list(each(records, lambda record: _question(family, record, answers, folder, split), path))


def _answers(family: Family, folder: Path, split: str, names: dict[str, str], questions: Path) -> dict[Any, list[str]]:
    """Of each question id; empty where the split has none beside it."""
    try:
        patterns = (pattern.format(**names) for pattern in family.annotations)
        path = first_of(folder, *patterns, benchmark=f"{family.name} ({split})")
    except UserError:
        return {}  # a test split, or one file for both
    if path == questions:
        return {}
    records = read_json(path)["annotations"]
    return dict(each(records, lambda record: (record["question_id"], _texts(record["answers"])), path))


def _texts(answers: list[Any]) -> list[str]:
    return [one["answer"] if isinstance(one, dict) else str(one) for one in answers]


def _question(family: Family, record: dict[str, Any], answers: dict, folder: Path, split: str) -> Question:
    image = record.get("image_id", record.get("image"))
    number = record.get("question_id", image)
    given = answers.get(number) or _texts(record.get("answers", []))
    return Question(
        id=str(number), images=(_picture(family, image, folder, split),), text=record["question"].strip(),
        answers=tuple(given), extra={"question_id": number, "image": str(image)},
    )  # fmt: skip


def _picture(family: Family, image: Any, folder: Path, split: str) -> str:
    pictures = family.folders.get(split, split).replace("-dev", "")
    if isinstance(image, int):
        return str(folder / family.picture.format(pictures=pictures, id=image))
    names = [family.picture.format(pictures=pictures, split=split, folder="train_images", id=image)]
    names += [f"test_images/{image}.jpg", str(image), f"images/{image}", f"images/{image}.jpg"]
    return str(next((folder / name for name in names if (folder / name).is_file()), folder / names[0]))


BENCHMARKS = {name: lambda path, split, name=name: VQA(name, path, split) for name in FAMILIES}
