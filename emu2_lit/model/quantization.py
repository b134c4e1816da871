"""4-bit weights (NF4 with double quantisation, QLoRA) through bitsandbytes.

Only the linear layers of the language model's blocks are held in 4 bits: 87% of the network. The tower, the two
projections, the embeddings and the output layer stay as they are, since what they lose cannot be tuned back.
"""

import torch
from torch import Tensor, nn

from emu2_lit.errors import UserError

KINDS = ("nf4",)
BYTES_PER_WEIGHT = 0.52  # 4 bits, and a scale of 8 bits for 64 weights


def quantize_linears(model: nn.Module, kind: str, compute_dtype: torch.dtype | None = None) -> None:
    """Put 4-bit layers, still empty, in the place of the language model's linear layers.

    Args:
        model: an Emu2ForConditionalGeneration on the meta device.
        kind: "nf4".
        compute_dtype: of the products; default that of what comes in.
    Raises:
        UserError: another kind, or bitsandbytes is not installed.
    """
    if kind not in KINDS:
        raise UserError(f"model.quantization: unknown kind {kind!r}; one of {', '.join(KINDS)}")
    linear_4bit = _bitsandbytes().Linear4bit
    for layer in model.lm.model.layers:
        for path, linear in list(layer.named_modules()):
            if isinstance(linear, nn.Linear):
                parent, _, name = path.rpartition(".")
                empty = linear_4bit(
                    linear.in_features, linear.out_features, bias=linear.bias is not None,
                    compute_dtype=compute_dtype, compress_statistics=True, quant_type=kind, device="meta",
                )  # fmt: skip
                # What it repacks for inference on some CPUs passes no gradient to what trains after an evaluation,
                # and sizes that are no multiple of 32 fail.
                empty.support_avx512bf16_for_cpu = False
                setattr(layer.get_submodule(parent), name, empty)
    model.is_loaded_in_4bit = True  # PEFT chooses its adapter layers by this


def is_quantized(parameter: Tensor) -> bool:
    """Whether a parameter is held in 4 bits, or will be once it is filled."""
    return hasattr(parameter, "quant_type")


def quantize(layer: nn.Module, weight: Tensor, device: torch.device | str | int) -> nn.Parameter:
    """The 4-bit parameter of a layer of `quantize_linears`.

    Args:
        weight: (out features, in features), of a floating type; packed on `device`.
    """
    empty = layer.weight
    parameter = _bitsandbytes().Params4bit(
        weight, requires_grad=False, quant_type=empty.quant_type, compress_statistics=empty.compress_statistics,
        quant_storage=empty.quant_storage, blocksize=empty.blocksize, module=layer,
    )  # fmt: skip
    return parameter.to(device)


def _bitsandbytes():
    try:
        import bitsandbytes.nn
    except ImportError as error:
        raise UserError("model.quantization: bitsandbytes is not installed; pip install 'emu2-lit[qlora]'") from error
    return bitsandbytes.nn
