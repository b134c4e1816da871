import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from emu2_lit.errors import UserError
from emu2_lit.evaluation import choice_probability, roc_auc


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1], 0.75),  # three of four pairs in order
        ([0.5, 0.5], [0, 1], 0.5),  # a tie is half a pair
        ([0.9, 0.1], [False, True], 0.0),
        ([1, 0], [1, 0], 1.0),
    ],
)
def test_pairs_in_order(scores, labels, expected):
    assert roc_auc(scores, labels) == pytest.approx(expected)


def test_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 300)
    scores = np.clip(rng.normal(0.4 + 0.2 * labels, 0.3), 0, 1).round(2)  # with ties
    assert roc_auc(scores.tolist(), labels.tolist()) == pytest.approx(roc_auc_score(labels, scores), abs=1e-6)


def test_small_differences_count():
    assert roc_auc([0.1, 0.1 + 1e-12], [0, 1]) == 1.0


def test_one_label_has_no_curve():
    assert math.isnan(roc_auc([0.1, 0.9], [1, 1]))


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([0.1], [0, 1], "1 scores for 2 labels"),
        ([0.1, -2.0], [0, 1], "score 1 is -2.0"),
        ([math.nan, 0.5], [0, 1], "score 0 is nan"),
        ([0.1, 0.5], [0, 2], r"\[0, 2\]"),
    ],
)
def test_refused(scores, labels, message):
    with pytest.raises(UserError, match=message):
        roc_auc(scores, labels)


def test_probability_of_a_choice():
    assert choice_probability([math.log(0.2), math.log(0.6)], 1) == pytest.approx(0.75)
    assert choice_probability([-1000.0, -1001.0], 0) == pytest.approx(1 / (1 + math.exp(-1)))
