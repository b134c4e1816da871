"""What every benchmark is: questions, where demonstrations come from, and how answers are scored."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, ClassVar, Literal

from emu2_lit.evaluation.question import Question
from emu2_lit.evaluation.short_answer import short_answer


@dataclass(frozen=True)
class Prediction:
    """What a model said to one question.

    Attributes:
        text: the answer after post-processing, or the choice that was most likely.
        raw: as it was generated.
        scores: log-likelihood per token of each choice, natural logarithm.
    """

    id: str
    text: str
    raw: str = ""
    scores: tuple[float, ...] = ()
    shots: int = 0


class Benchmark(ABC):
    """Questions with a metric.

    Attributes:
        name: what figures are called by.
        metric: the name of the main score.
        answer_by: whether answers are generated, or chosen among `Question.choices` by likelihood.
        max_new_tokens: of a generated answer.
        grounding: answers are boxes, as location tokens; chat models are told so.
        queries: what is asked.
        support: where demonstrations are drawn; may be empty.
    """

    name: str
    metric: ClassVar[str]
    answer_by: ClassVar[Literal["generation", "likelihood"]] = "generation"
    max_new_tokens: ClassVar[int] = 10
    grounding: ClassVar[bool] = False
    queries: Sequence[Question]
    support: Sequence[Question] = ()

    def clean(self, text: str) -> str:
        """A generated answer as it is scored and submitted; Emu's own short-answer rule unless a benchmark differs."""
        return short_answer(text)

    @abstractmethod
    def item_score(self, question: Question, prediction: Prediction) -> float:
        """How right one prediction is, 0..1; nan where single items have no score."""

    def score(self, questions: Sequence[Question], predictions: Sequence[Prediction]) -> dict[str, float]:
        """Figures of all predictions, the main one (`metric`) first; by default the mean of the items."""
        pairs = list(zip(questions, predictions, strict=True))
        return {self.metric: fmean(self.item_score(*pair) for pair in pairs) if pairs else float("nan")}

    def submission(self, questions: Sequence[Question], predictions: Sequence[Prediction]) -> tuple[str, Any] | None:
        """Name and content (JSON, or text) of the file that the benchmark's server takes, where there is one."""
        return None
