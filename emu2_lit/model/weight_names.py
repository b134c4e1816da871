"""The three namings of the weights, and the one tensor that differs between them.

Tensors are read from any naming into that of the published Hugging Face checkpoints, which is also that of our state
dict. Beside the prefixes, the native form keeps the tower's attention bias as `q_bias` and `v_bias`, where the Hugging
Face form has one `qkv.bias` with zeros for the keys in the middle.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from emu2_lit.errors import UserError

_GEN_PREFIX = "multimodal_encoder."
_DECODING_PREFIXES = ("unet.", "vae.", "safety_checker.")  # of Emu2-Gen's single file; not part of this network
_BUFFERS = ("rotary_emb.inv_freq", "position_ids")  # computed, not learned; some releases saved them
_ADAPTER_PREFIX = "base_model.model."
_HALVES = (".q_bias", ".v_bias")


def published_name(name: str) -> str | None:
    """The Hugging Face name of a stored tensor; None where it is not part of the network.

    `q_bias` and `v_bias` keep their endings: `join_biases` makes one tensor of them.

    Raises:
        UserError: the name is that of an adapter, not of a whole model.
    """
    if name.startswith(_ADAPTER_PREFIX):
        raise UserError(
            f"{name}: this is an adapter (PEFT), not a model: give it as model.adapter and the weights that it was "
            "tuned from as model.weights"
        )
    name = name.removeprefix(_GEN_PREFIX)
    if name.startswith(_DECODING_PREFIXES) or name.endswith(_BUFFERS):
        return None
    if name.startswith(("visual.", "decoder.")):
        name = f"model.{name}"
    for projection in ("project_up", "project_down"):  # an early release kept them inside the language model
        if name.endswith(f"decoder.lm.{projection}.weight"):
            return f"{projection}.weight"
    return name


def native_name(name: str) -> str:
    """The native name of a tensor of our state dict, `qkv.bias` aside."""
    return name.removeprefix("model.")


def join_biases(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Put `q_bias` and `v_bias` together as `qkv.bias`, wherever in the stream the two come.

    Raises:
        UserError: one of the two never comes.
    """
    waiting: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors:
        if not name.endswith(_HALVES):
            yield name, tensor
            continue
        block, _, half = name.rpartition(".")
        halves = waiting.setdefault(block, {})
        halves[half] = tensor
        if len(halves) == 2:
            q, v = halves["q_bias"], halves["v_bias"]
            yield f"{block}.qkv.bias", torch.cat([q, torch.zeros_like(q), v])
            del waiting[block]
    for block, halves in waiting.items():
        raise UserError(f"{block}: {next(iter(halves))} is there without its other half (q_bias and v_bias)")


def split_bias(name: str, bias: Tensor) -> list[tuple[str, Tensor]]:
    """The native `q_bias` and `v_bias` of a `qkv.bias`.

    Raises:
        UserError: the keys have a bias, which the native form cannot hold.
    """
    q, k, v = bias.chunk(3)
    if k.count_nonzero():
        raise UserError(
            f"{name}: the keys have a bias that is not zero, and the native form has no place for it. "
            "Was the tower trained by other code? Write the Hugging Face form instead"
        )
    block = native_name(name).removesuffix(".qkv.bias")
    return [(f"{block}.q_bias", q), (f"{block}.v_bias", v)]
