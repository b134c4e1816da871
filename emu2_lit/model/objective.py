"""What predicts what, and the two losses of the unified autoregressive objective (paper section 2.2, figure 2).

The hidden state at a position predicts the next one: a text token by cross-entropy, a visual slot by regressing its
embedding in the pooled encoder space. `[IMG]` is a text target; the state at `[IMG]` and at every slot but the last
predicts the next slot; nothing is predicted from the last slot, so `[/IMG]` is no target.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORE = -100


def unified_targets(input_ids: Tensor, attention_mask: Tensor, special_ids: dict[str, int]) -> tuple[Tensor, Tensor]:
    """Every target of the unified objective.

    Args:
        input_ids, attention_mask: (batch, length).
    Returns:
        labels (batch, length), -100 where no text is learned, and a bool mask (batch, length) of regressed slots.
    """
    slots = (input_ids == special_ids["<image>"]) | (input_ids == special_ids["[gIMG]"])
    real = attention_mask.bool()
    text = real & ~slots & (input_ids != special_ids["[/IMG]"]) & (input_ids != special_ids["<s>"])
    return input_ids.masked_fill(~text, IGNORE), slots & real


def text_states(hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The states that predict a learned token, and these tokens: (targets, hidden_size), (targets,)."""
    shifted = labels[:, 1:]
    learned = shifted != IGNORE
    return hidden[:, :-1][learned], shifted[learned]


def visual_states(hidden: Tensor, visual_targets_mask: Tensor) -> Tensor:
    """The states that predict a regressed slot, in reading order: (targets, hidden_size)."""
    return hidden[:, :-1][visual_targets_mask[:, 1:]]


def text_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in float32; zero, still attached to the graph, where nothing is learned."""
    if not len(targets):
        return logits.float().sum() * 0.0
    return F.cross_entropy(logits.float(), targets)


def visual_loss(regression: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error over targets and dimensions, in float32; zero, still attached, without targets."""
    if not len(targets):
        return regression.float().sum() * 0.0
    return F.mse_loss(regression.float(), targets.detach().float())


def count(targets: Tensor) -> Tensor:
    """The number of targets as a tensor on their device."""
    return torch.tensor(len(targets), device=targets.device)
