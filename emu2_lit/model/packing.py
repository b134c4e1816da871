"""Rows that hold several samples: no token sees another sample's, and positions begin anew with each.

A row is described by `segment_ids`, (batch, length) int64: 1, 2, ... for the tokens of its samples, 0 for padding on
the right. The mask is explicit because transformers finds samples by their positions only where there is no mask and no
cache; everywhere else it would let them see each other without a word. The kit's only attention, PyTorch's, takes it on
every device; what it costs is the pairs that it hides, little where rows are short beside the width of the network.
"""

import torch
from torch import Tensor


def attention(segment_ids: Tensor) -> Tensor:
    """(batch, 1, length, length) bool: true where the token of a row sees that of a column, which is its own or an
    earlier one of the same sample. Padding sees padding, so that every row of the softmax has an entry."""
    same = segment_ids.unsqueeze(-1) == segment_ids.unsqueeze(-2)
    return same.tril().unsqueeze(1)


def positions(segment_ids: Tensor) -> Tensor:
    """(batch, length) int64: the place of every token in its sample, from 0."""
    place = torch.arange(segment_ids.shape[1], device=segment_ids.device).expand_as(segment_ids)
    begins = torch.ones_like(segment_ids, dtype=torch.bool)
    begins[:, 1:] = segment_ids[:, 1:] != segment_ids[:, :-1]
    return place - torch.where(begins, place, 0).cummax(1).values
