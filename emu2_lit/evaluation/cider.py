"""CIDEr-D, the metric of captions (https://arxiv.org/abs/1411.5726, sections 3 and 6), as COCO's evaluation has it."""

import math
from collections import Counter
from collections.abc import Callable, Sequence

from emu2_lit.errors import UserError
from emu2_lit.evaluation.ptb import caption_words

MAX_N = 4
SIGMA = 6.0  # of the penalty on a difference in length, in words
SCALE = 10.0
Grams = Counter[tuple[str, ...]]


def cider_items(
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    tokenise: Callable[[str], list[str]] = caption_words,
) -> list[float]:
    """CIDEr-D of each caption, 0..10.

    How rare an n-gram is counts over the references of these very items, so an item's value depends on the others,
    and a single item gives 0. The references should be all of the split's, as they are in published figures.

    Args:
        captions: one for each picture.
        references: those of each picture, at least one.
        tokenise: `str.split` for captions that are tokenised already.

    Raises:
        UserError: not as many captions as references, or a picture without any.
    """
    if len(captions) != len(references):
        raise UserError(f"CIDEr: {len(captions)} captions for the references of {len(references)} pictures.")
    for place, texts in enumerate(references):
        if not texts:
            raise UserError(f"CIDEr: item {place} has no reference caption; test splits have none.")
    truths = [[_grams(tokenise(text)) for text in texts] for texts in references]
    weight = _rarity(truths)
    scores = []
    for caption, grams in zip(captions, truths, strict=True):
        own = _Vectors(_grams(tokenise(caption)), weight)
        total = sum(own.similarity(_Vectors(truth, weight)) for truth in grams)
        scores.append(SCALE * total / len(grams))
    return scores


def cider(
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    tokenise: Callable[[str], list[str]] = caption_words,
) -> float:
    """CIDEr-D of all captions, the mean of `cider_items`; 1.25 here is the 125 of published tables."""
    scores = cider_items(captions, references, tokenise)
    return sum(scores) / len(scores) if scores else math.nan


def _grams(words: Sequence[str]) -> Grams:
    return Counter(tuple(words[i : i + n]) for n in range(1, MAX_N + 1) for i in range(len(words) - n + 1))


def _rarity(truths: Sequence[Sequence[Grams]]) -> Callable[[tuple[str, ...]], float]:
    """Log of the number of pictures over the number whose references have the n-gram."""
    pictures = Counter(gram for grams in truths for gram in set().union(*grams))
    logarithm = math.log(max(1, len(truths)))
    return lambda gram: logarithm - math.log(max(1, pictures[gram]))


class _Vectors:
    """Weighted n-gram counts of one caption: a vector for each n."""

    def __init__(self, grams: Grams, weight: Callable[[tuple[str, ...]], float]):
        self.parts: list[dict[tuple[str, ...], float]] = [{} for _ in range(MAX_N)]
        for gram, count in grams.items():
            self.parts[len(gram) - 1][gram] = count * weight(gram)
        self.norms = [math.sqrt(sum(value**2 for value in part.values())) for part in self.parts]
        self.words = sum(count for gram, count in grams.items() if len(gram) == 1)

    def similarity(self, truth: "_Vectors") -> float:
        """Mean over n of the cosines, where repeating a word gains nothing, less a penalty on length."""
        cosines = 0.0
        for n in range(MAX_N):
            part, other, norm = self.parts[n], truth.parts[n], self.norms[n] * truth.norms[n]
            if norm:
                shared = ((value, other[gram]) for gram, value in part.items() if gram in other)
                cosines += sum(min(value, true) * true for value, true in shared) / norm
        return cosines / MAX_N * math.exp(-((self.words - truth.words) ** 2) / (2 * SIGMA**2))
