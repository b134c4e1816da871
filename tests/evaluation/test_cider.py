import math
import random

import pytest
from pycocoevalcap.cider.cider import Cider

from emu2_lit.errors import UserError
from emu2_lit.evaluation import cider, cider_items

REFERENCES = [["a b"], ["c d"]]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a b", 5.0),  # cosine 1 for words and pairs; no longer n-grams: 10 * 2/4
        ("a a", 10 / 4 / (2 * math.sqrt(2))),  # the second "a" gains nothing and lengthens the vector
        ("a b e e", 10 / 4 * (2 / math.sqrt(12) + 1 / math.sqrt(3)) * math.exp(-4 / 72)),  # two words too long
        ("c d", 0.0),
        ("", 0.0),
    ],
)
def test_worked_by_hand(caption, expected):
    assert cider_items([caption, "x"], REFERENCES, str.split) == pytest.approx([expected, 0.0])


def test_agrees_with_the_coco_evaluation():
    rng = random.Random(0)
    vocabulary = "a the dog cat man sits on in red big runs tree".split()

    def sentence() -> str:
        return " ".join(rng.choices(vocabulary, k=rng.randint(1, 14)))

    references = [[sentence() for _ in range(rng.randint(1, 5))] for _ in range(50)]
    captions = [rng.choice(texts) if rng.random() < 0.3 else sentence() for texts in references]
    captions[3:6] = ["", "dog", "unheard words only"]
    mean, items = Cider().compute_score(dict(enumerate(references)), {i: [text] for i, text in enumerate(captions)})
    assert cider_items(captions, references, str.split) == pytest.approx(list(items), abs=1e-12)
    assert cider(captions, references, str.split) == pytest.approx(mean)
    assert mean > 0.5


def test_captions_are_tokenised():
    references = [["A dog's bowl."], ["Two cats!"]]
    items = cider_items(['"a dog\'s bowl"', "two cats"], references)
    assert items == pytest.approx([10.0, 5.0])  # "a dog 's bowl" has n-grams of all four lengths, "two cats" of two


def test_one_item_tells_nothing():
    assert cider(["a dog"], [["a dog"]]) == 0.0
    assert math.isnan(cider([], []))


def test_refused():
    with pytest.raises(UserError, match="1 captions for the references of 2"):
        cider(["a"], REFERENCES)
    with pytest.raises(UserError, match="item 1 has no reference"):
        cider(["a", "b"], [["a"], []])
