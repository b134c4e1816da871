"""Exact match of generated answers, the metric of GQA, MSVD-QA and MSRVTT-QA (paper, table 10)."""

from collections.abc import Sequence


def normalise(answer: str) -> str:
    """Lower case, without space around and without a final period."""
    return answer.strip().lower().removesuffix(".").rstrip()


def exact_match(prediction: str, reference: str | Sequence[str]) -> bool:
    """Whether the prediction equals the reference, or one of several, once both are normalised."""
    references = [reference] if isinstance(reference, str) else reference
    return normalise(prediction) in {normalise(text) for text in references}
