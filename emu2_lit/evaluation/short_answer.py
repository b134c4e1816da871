"""The short answer at the head of what a base model goes on to write.

Emu2's own post-processing of few-shot answers: mm_eval/datasets/utils.py of the published code, repeated by its
authors in https://github.com/baaivision/Emu/issues/77.
"""

_ENDS = ("\n", ". ", '"', ", ")  # the answer is over at the first of each, cut in this order
_OPENINGS = ("it is ", "it's ", "a ", "an ", "the ")  # dropped in this order, once each


def short_answer(text: str) -> str:
    """The first phrase of `text`: lower case, without a final period, an article or "it is" before it."""
    for end in _ENDS:
        text = text.split(end, 1)[0]
    text = text.strip().lower().removesuffix(".")
    for opening in _OPENINGS:
        text = text.removeprefix(opening)
    return text
