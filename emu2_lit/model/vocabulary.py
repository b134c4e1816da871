"""Rows for tokens that a model does not have yet."""

import torch
from torch import Tensor, nn

from emu2_lit.model.special_tokens import CHAT_TOKENS


@torch.no_grad()
def add_role_tokens(model) -> list[int]:
    """Give a base model the two role tokens of chat models.

    The new rows start at the mean of the old ones: no random draw, so an adapter trained on a grown model fits
    whenever the same base is grown again.

    Args:
        model: an Emu2ForConditionalGeneration; changed in place, with its configuration.
    Returns:
        The new token ids; empty where the model had them.
    """
    if model.config.chat:
        return []
    old = model.config.text_config.vocab_size
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        grown = with_mean_rows(module.weight, len(CHAT_TOKENS))
        module.weight = nn.Parameter(grown, requires_grad=module.weight.requires_grad)
    model.get_input_embeddings().num_embeddings = model.get_output_embeddings().out_features = len(grown)
    model.config.text_config.vocab_size = model.lm.config.vocab_size = model.lm.model.vocab_size = len(grown)
    model.lm.vocab_size = len(grown)
    return list(range(old, len(grown)))


def with_mean_rows(weight: Tensor, count: int) -> Tensor:
    """`weight` (rows, width) with `count` more rows, each the mean of the others."""
    rows = weight.float().mean(dim=0, keepdim=True).to(weight.dtype)
    return torch.cat([weight, rows.expand(count, -1)])
