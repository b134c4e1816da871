"""VQA accuracy (https://arxiv.org/abs/1505.00468): an answer is right as far as three other people gave it.

Two evaluators disagree about which answers are the same, so a figure is told with its dialect:

- `official`, the evaluator of VQAv2: the prediction is normalised; human answers lose their punctuation only, and only
  where they are not all alike (they are published in normal form).
- `openflamingo`: both sides are normalised, always.
"""

import re
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from emu2_lit.errors import UserError

Dialect = Literal["official", "openflamingo"]

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'  # apostrophes and colons stay: contractions and times
_NUMBER_GROUPS = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_PERIODS_REMOVED = 32  # the original passes a flag, which is the number 32, where the count of replacements stands
_ARTICLES = frozenset(["a", "an", "the"])
_NUMBERS = {"none": "0"} | {
    word: str(value) for value, word in enumerate("zero one two three four five six seven eight nine ten".split())
}
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()
# From each spelling with one apostrophe missing. The last is the wrong way round in the original, too.
_RESTORED = {
    word[:at] + word[at + 1 :]: word for word in _CONTRACTIONS for at, mark in enumerate(word) if mark == "'"
} | {"somebody'd": "somebodyd"}


def strip_punctuation(text: str) -> str:
    """Without punctuation, by the original's rule.

    A mark goes if it touches a space anywhere in the text, or if the text has digits grouped by a comma; else a space
    takes its place. Periods go unless a digit follows, 32 of them at most.
    """
    grouped = _NUMBER_GROUPS.search(text) is not None
    out = text
    for mark in _PUNCTUATION:
        goes = grouped or f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if goes else " ")
    return _PERIOD.sub("", out, count=_PERIODS_REMOVED)


def plain_words(text: str) -> str:
    """Lower case, number words to ten as digits, without articles, contractions with their apostrophes."""
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_RESTORED.get(word, word) for word in words if word not in _ARTICLES)


def normalise_vqa(text: str) -> str:
    """A predicted answer in the form that answers are compared in (the same in both dialects)."""
    return plain_words(strip_punctuation(_one_line(text)))


def vqa_accuracy(
    prediction: str,
    answers: Sequence[str],
    dialect: Dialect = "official",
    stem: Callable[[str], str] | None = None,
) -> float:
    """How right an answer is, 0..1: the mean over annotators of min(1, matches among the others / 3).

    With ten answers, of which n match: 0, 0.3, 0.6, 0.9 and, from four on, 1. Annotators are left out by their place;
    leaving out all who said the same, as evaluators that compare records do, gives lower figures.

    Args:
        answers: one for each annotator, repetitions included.
        stem: applied to both sides before they are normalised. OKVQA's figures stem words; which stemmer is the
            caller's choice.

    Raises:
        UserError: an unknown dialect, or no answers (test splits have none).
    """
    if dialect not in get_args(Dialect):
        raise UserError(f"VQA accuracy: no dialect {dialect!r}; there are {', '.join(get_args(Dialect))}.")
    if not answers:
        raise UserError("VQA accuracy: a question without human answers; those of a test split can only be submitted.")
    stem = stem or (lambda text: text)
    truths = _truths([stem(answer) for answer in answers], dialect)
    predicted = normalise_vqa(stem(prediction))
    matches = [truth == predicted for truth in truths]
    return sum(min(1.0, (sum(matches) - match) / 3) for match in matches) / len(matches)


def _truths(answers: Sequence[str], dialect: Dialect) -> list[str]:
    if dialect == "openflamingo":
        return [normalise_vqa(answer) for answer in answers]
    answers = [_one_line(answer) for answer in answers]
    return [strip_punctuation(answer) for answer in answers] if len(set(answers)) > 1 else answers


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()
