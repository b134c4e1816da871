"""RefCOCO, RefCOCO+ and RefCOCOg: the box that an expression refers to; accuracy at IoU 0.5 (paper, table 3).

Files: refs(unc).p (RefCOCOg: refs(umd).p) and instances.json as published by `refer`, pictures in train2014/.
How the paper asks is not known; here the expression stands in a plain question, in the concise chat form with boxes.
"""

import io
import pickle
from pathlib import Path
from typing import Any

from emu2_lit.errors import UserError
from emu2_lit.evaluation.benchmark import Benchmark, Prediction
from emu2_lit.evaluation.benchmarks.files import each, first_of, need, read_json
from emu2_lit.evaluation.detection import box_overlap
from emu2_lit.evaluation.question import Question

_ASKED = "where is {expression}?"


class RefCOCO(Benchmark):
    """One question for each expression; a reply without a box is wrong."""

    metric, max_new_tokens, grounding = "accuracy_iou50", 32, True

    def __init__(self, name: str, folder: Path, split: str | None = None):
        self.name = name
        by = "umd" if name == "refcocog" else "unc"
        refs = first_of(folder, f"refs({by}).p", "refs(google).p", benchmark=name)
        (instances,) = need(folder, "instances.json", benchmark=name)
        content = read_json(instances)
        boxes = {one["id"]: one["bbox"] for one in content["annotations"]}
        pictures = {one["id"]: one for one in content["images"]}
        records = [ref for ref in read_pickle(refs) if ref["split"] == (split or "val")]
        asked = each(records, lambda ref: _questions(ref, boxes, pictures, folder), refs)
        self.queries = [question for some in asked for question in some]

    def clean(self, text: str) -> str:
        return text.strip()

    def item_score(self, question: Question, prediction: Prediction) -> float:
        return float(box_overlap(prediction.text, question.extra["box"]) > 0.5)


def _questions(ref: dict[str, Any], boxes: dict, pictures: dict, folder: Path) -> list[Question]:
    picture = pictures[ref["image_id"]]
    x, y, width, height = boxes[ref["ann_id"]]
    corners = (
        x / picture["width"], y / picture["height"],
        (x + width) / picture["width"], (y + height) / picture["height"],
    )  # fmt: skip
    names = (folder / "train2014" / picture["file_name"], folder / "images" / picture["file_name"])
    image = next((name for name in names if name.is_file()), names[0])
    return [
        Question(
            id=f"{ref['ref_id']}_{sentence['sent_id']}", images=(str(image),), answers=(str(corners),),
            text=_ASKED.format(expression=sentence["sent"]), extra={"box": corners},
        )
        for sentence in ref["sentences"]
    ]  # fmt: skip


class _Plain(pickle.Unpickler):
    """Containers, numbers and strings alone: a pickle may otherwise run anything."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def read_pickle(path: Path) -> Any:
    """The plain content of a pickle, of Python 2 or 3. Raises UserError where it holds anything else."""
    try:
        return _Plain(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except Exception as error:
        raise UserError(f"{path}: is not a plain pickle of lists and dicts ({error}); it was not opened") from error


BENCHMARKS = {
    name: lambda path, split, name=name: RefCOCO(name, path, split) for name in ("refcoco", "refcoco+", "refcocog")
}
