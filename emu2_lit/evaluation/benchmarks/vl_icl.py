"""VL-ICL Bench: tasks that can only be told from the demonstrations (https://arxiv.org/abs/2403.13164).

Files, for each task: {task}/query.json and support.json of {id, image: [paths], question, answer}, and the pictures
that they name. In open_mi each query brings its support: {classes, support: {class: {images, caption}}}; in operator
induction a demonstration has three answers, the sum, the difference and the product, and the query says which operator.
"""

from pathlib import Path
from typing import Any

from emu2_lit.evaluation.benchmark import Benchmark, Prediction
from emu2_lit.evaluation.benchmarks.files import each, need, read_json
from emu2_lit.evaluation.question import Question
from emu2_lit.evaluation.vl_icl import TEXT_TASKS, answer_is_right, cut_answer
from emu2_lit.samples.seeding import hash_seed

_OPERATORS = {"*": "x", "\u00d7": "x", "\u2212": "-"}
WAYS = 2  # classes of an open_mi episode, as in the paper


class VLICL(Benchmark):
    """One task with text answers; in open_mi shots count per class."""

    metric, max_new_tokens = "accuracy", 15

    def __init__(self, task: str, folder: Path, split: str | None = None):
        self.task, self.name = task, f"vl_icl_{task}"
        root = folder / task if (folder / task).is_dir() else folder
        path, support = need(root, "query.json", "support.json", benchmark=self.name)
        if task == "open_mi":
            self.queries = list(each(read_json(path), lambda record: _episode(record, root), path))
            return
        self.queries, self.support = (
            [one for some in each(read_json(file), lambda record: _questions(record, root), file) for one in some]
            for file in (path, support)
        )

    def clean(self, text: str) -> str:
        return cut_answer(text)

    def item_score(self, question: Question, prediction: Prediction) -> float:
        return float(answer_is_right(self.task, prediction.raw, question.answers[0]))


def _questions(record: dict[str, Any], root: Path) -> list[Question]:
    """One for each answer, in a group of its own where there are several."""
    answers, operator = record["answer"], record.get("operator")
    if isinstance(answers, list):
        named = [(f"{record['id']}_{group}", group, answer) for group, answer in zip("+-x", answers, strict=True)]
    else:
        named = [(str(record["id"]), _OPERATORS.get(str(operator), str(operator or "")), answers)]
    return [
        Question(
            id=id, images=_images(record["image"], root), text=record.get("question", ""), answers=(str(answer),),
            group=group,
        )
        for id, group, answer in named
    ]  # fmt: skip


def _episode(record: dict[str, Any], root: Path) -> Question:
    """The query's own class and others of its support, in an order of the query's own."""
    support, true = record["support"], str(record["answer"])
    others = [name for name in support if name != true]
    others.sort(key=lambda name: hash_seed("open_mi", record["id"], name))
    classes = sorted([true, *others[: WAYS - 1]], key=lambda name: hash_seed("order", record["id"], name))
    shots = max(len(support[name]["images"]) for name in classes)
    shown = [
        _shown(record["id"], name, place, support[name], root)
        for place in range(shots)
        for name in classes
        if place < len(support[name]["images"])
    ]
    return Question(
        id=str(record["id"]), images=_images(record["image"], root), text=record.get("question", ""),
        answers=(true,), label=true, demonstrations=tuple(shown),
    )  # fmt: skip


def _shown(query: Any, name: str, place: int, support: dict[str, Any], root: Path) -> Question:
    image = support["images"][place]
    return Question(f"{query}_{name}_{place}", (str(root / image),), "", answers=(name,), label=name)


def _images(value: Any, root: Path) -> tuple[str, ...]:
    return tuple(str(root / one) for one in (value if isinstance(value, list) else [value]))


BENCHMARKS = {f"vl_icl_{task}": lambda path, split, task=task: VLICL(task, path, split) for task in TEXT_TASKS}
