"""COCO and Flickr30k captions in Karpathy's split: one JSON {images: [{split, filepath, filename, sentences}]}.

Files: dataset_coco.json or dataset_flickr30k.json (or karpathy_*.json), pictures under their `filepath` or in images/.
"""

from functools import partial
from pathlib import Path
from typing import Any

from emu2_lit.evaluation.benchmark import Benchmark, Prediction
from emu2_lit.evaluation.benchmarks.files import each, first_of, read_json
from emu2_lit.evaluation.cider import cider
from emu2_lit.evaluation.openflamingo import openflamingo_caption
from emu2_lit.evaluation.question import Question


class Captions(Benchmark):
    """CIDEr-D of generated captions, 0..10; its items depend on each other, so they have no score of their own."""

    metric, max_new_tokens = "cider", 20

    def __init__(self, name: str, folder: Path, split: str | None = None):
        self.name = name
        path = first_of(folder, f"dataset_{name.split('_')[0]}*.json", "karpathy_*.json", "*.json", benchmark=name)
        records = read_json(path)["images"]
        train = [record for record in records if record["split"] in ("train", "restval")]
        asked = [record for record in records if record["split"] == (split or "test")]
        self.queries, self.support = (
            list(each(some, partial(_question, folder=folder), path)) for some in (asked, train)
        )

    def clean(self, text: str) -> str:
        return openflamingo_caption(text.split("\n", 1)[0])

    def item_score(self, question: Question, prediction: Prediction) -> float:
        return float("nan")

    def score(self, questions, predictions) -> dict[str, float]:
        captions = [prediction.text for prediction in predictions]
        return {"cider": cider(captions, [question.answers for question in questions])}

    def submission(self, questions, predictions) -> tuple[str, Any]:
        """COCO's list of {image_id, caption}."""
        pairs = zip(questions, predictions, strict=True)
        return f"{self.name}.json", [{"image_id": q.extra["image_id"], "caption": p.text} for q, p in pairs]


def _question(record: dict[str, Any], folder: Path) -> Question:
    number = record.get("cocoid", record.get("imgid"))
    names = (Path(record.get("filepath", "")) / record["filename"], Path("images") / record["filename"])
    image = next((folder / name for name in names if (folder / name).is_file()), folder / names[0])
    sentences = tuple(sentence["raw"].strip() for sentence in record["sentences"])
    return Question(str(number), (str(image),), "", answers=sentences, extra={"image_id": number})


BENCHMARKS = {
    "coco_captions": lambda path, split: Captions("coco_captions", path, split),
    "flickr30k": lambda path, split: Captions("flickr30k", path, split),
}
