"""Small benchmarks on pictures that tests draw themselves."""

from dataclasses import dataclass

from PIL import Image

from emu2_lit.evaluation.benchmark import Benchmark, Prediction
from emu2_lit.evaluation.question import Question

NAMES = ("dax", "blicket")


@dataclass
class Toy(Benchmark):
    """A benchmark whose score is the share of answers that equal the first reference."""

    queries: list[Question]
    support: list[Question]
    answer_by: str = "generation"
    max_new_tokens: int = 4
    name: str = "toy"
    metric: str = "exact_match"

    def clean(self, text: str) -> str:
        return text.strip().lower()

    def item_score(self, question: Question, prediction: Prediction) -> float:
        return float(prediction.text == question.answers[0])

    def score(self, questions, predictions) -> dict[str, float]:
        items = [self.item_score(q, p) for q, p in zip(questions, predictions, strict=True)]
        return {self.metric: sum(items) / len(items), "answered": float(len(items))}


def draw(folder, name: str, seed: int, colour: str = "white") -> str:
    """A picture file that differs from all others."""
    folder.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (16, 16), colour)
    for bit in range(8):
        if seed >> bit & 1:
            image.paste("black", (4 * (bit % 4), 8 * (bit // 4), 4 * (bit % 4) + 4, 8 * (bit // 4) + 8))
    path = folder / f"{name}.png"
    image.save(path)
    return str(path)


def questions(folder, count: int, start: int = 0, text: str = "what is it called?", choices=NAMES) -> list[Question]:
    """Questions of different length about different pictures; labels take turns."""
    return [
        Question(
            id=f"q{number}", images=(draw(folder, f"q{number}", number),), text=text + " really?" * (number % 3),
            answers=(NAMES[number % 2],), choices=choices, label="",
        )
        for number in range(start, start + count)
    ]  # fmt: skip


def naming(folder, count: int, start: int = 0) -> list[Question]:
    """The same pictures with nothing asked; the name is the label."""
    return [
        Question(
            id=f"q{number}", images=(draw(folder, f"q{number}", number),), text="", answers=(NAMES[number % 2],),
            choices=NAMES, label=NAMES[number % 2],
        )
        for number in range(start, start + count)
    ]  # fmt: skip
