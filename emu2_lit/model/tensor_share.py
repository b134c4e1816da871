"""What one of several ranks computes of the language model's blocks under tensor parallelism."""

import copy

from emu2_lit.errors import UserError
from emu2_lit.model.configuration import Emu2Config

_DIVIDED = {
    "num_attention_heads": "attention heads", "num_key_value_heads": "heads of keys and values",
    "intermediate_size": "columns in the MLP",
}  # fmt: skip


def tensor_share(config: Emu2Config, size: int) -> Emu2Config:
    """The network as one of `size` ranks sees it: whole heads, and whole columns of the MLP.

    Raises:
        UserError: they do not divide into equal shares.
    """
    share = copy.deepcopy(config)
    text = share.text_config
    text.head_dim = text.head_dim or text.hidden_size // text.num_attention_heads
    for name, what in _DIVIDED.items():
        count = getattr(text, name)
        if count % size:
            raise UserError(
                f"trainer.tensor_parallel={size}: the language model has {count} {what}, which do not divide into "
                f"{size} equal shares; take a divisor of {count}"
            )
        setattr(text, name, count // size)
    return share
