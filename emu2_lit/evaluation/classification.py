"""Yes or no with a degree: the ROC-AUC of Hateful Memes (paper, table 10)."""

import math
from collections.abc import Sequence

import torch
from torchmetrics.functional.classification import binary_auroc

from emu2_lit.errors import UserError


def choice_probability(log_likelihoods: Sequence[float], choice: int) -> float:
    """Probability of one of the legal answers: softmax over all, as OpenFlamingo scores "yes" against "no".

    Args:
        log_likelihoods: of each answer, a mean over its tokens.
    """
    return torch.tensor(log_likelihoods, dtype=torch.float64).softmax(0)[choice].item()


def roc_auc(scores: Sequence[float], labels: Sequence[bool | int]) -> float:
    """Area under the ROC curve, 0..1: how often a positive item scores above a negative one, ties counting half.

    Args:
        scores: 0..1 for each item, as `choice_probability` gives.
        labels: 1 or True for positive items.

    Returns:
        nan where all items have one label.

    Raises:
        UserError: lists of different lengths, scores outside 0..1, or labels other than 0 and 1.
    """
    if len(scores) != len(labels):
        raise UserError(f"ROC-AUC: {len(scores)} scores for {len(labels)} labels.")
    for place, score in enumerate(scores):
        if not 0 <= score <= 1:  # torchmetrics would squash all scores by a sigmoid, and take nan
            raise UserError(f"ROC-AUC: score {place} is {score}, not in 0..1; give probabilities.")
    if not set(labels) <= {0, 1}:
        raise UserError(f"ROC-AUC: labels are {sorted(set(labels), key=str)}, not 0 and 1.")
    if len(set(labels)) < 2:
        return math.nan
    return binary_auroc(torch.tensor(scores, dtype=torch.float64), torch.tensor(labels, dtype=torch.long)).item()
