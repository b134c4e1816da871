"""One item of a benchmark."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Question:
    """What is asked about which pictures, and what counts as an answer.

    Attributes:
        id: unique within its benchmark.
        images: image values as in `samples.Part`, in order.
        text: the question; empty for captions and naming tasks.
        answers: the references; the first is shown in demonstrations. Empty on test splits.
        choices: the legal answers, where they are scored by likelihood.
        group: where not empty, demonstrations come from the same group.
        label: the class, in N-way tasks: shots count per label.
        demonstrations: those that the benchmark fixed, in order.
        extra: what metric and submission need besides.
    """

    id: str
    images: tuple[Any, ...]
    text: str
    answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    group: str = ""
    label: str = ""
    demonstrations: tuple["Question", ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
