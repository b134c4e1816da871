"""Reading weights: streamed, cast tensor by tensor, strict.

A model is made without memory (meta device) and filled from the files, so at no time does a second copy of it exist.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn

from emu2_lit.errors import UserError
from emu2_lit.model import quantization as four_bit
from emu2_lit.model.configuration import Emu2Config
from emu2_lit.model.placement import Placement
from emu2_lit.model.weight_files import find_weights, model_folder, read_tensors
from emu2_lit.model.weight_names import join_biases, published_name

TOWER = "model.visual."  # what names of the visual encoder begin with
_LISTED = 10  # names of each kind in an error


def iterate_tensors(path: str | Path) -> Iterator[tuple[str, Tensor]]:
    """Tensors of any published form under their Hugging Face names; see `weight_files.read_tensors`.

    Args:
        path: a Hugging Face folder, a folder of Emu2-Gen, or one file in the native or the Hugging Face naming.
    Raises:
        UserError: there are no weights, they are damaged, or they are an adapter's.
    """
    stored = read_tensors(find_weights(path))
    named = ((published_name(name), tensor) for name, tensor in stored)
    return join_biases((name, tensor) for name, tensor in named if name is not None)


def read_config(path: str | Path) -> Emu2Config:
    """The configuration beside the weights, in BAAI's form or ours.

    Raises:
        UserError: there is none (single files have none), or it is another model's.
    """
    path = Path(path)
    file = model_folder(path) / "config.json"
    if not file.is_file():
        find_weights(path)  # where there are none either, that is what to say
        raise UserError(
            f"{path}: no config.json, so the size of the model is not known; "
            f"give it with model.preset (on the command line --preset), such as emu2-chat (in Python: "
            f"config=Emu2Config.preset(...))"
        )
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file}: not valid JSON ({error})") from error
    if not isinstance(values, dict) or "vision_config" not in values:
        raise UserError(f"{file}: not a configuration of Emu2 (it has no vision_config)")
    try:
        return Emu2Config.from_dict(values)
    except (KeyError, TypeError, ValueError, StrictDataclassError) as error:
        raise UserError(f"{file}: not a configuration of Emu2 ({error!r})") from error


def embedding_rows(path: str | Path) -> int:
    """Rows of the token embedding in files of weights; 0 where there is none."""
    tensors = iterate_tensors(path)
    return next((len(tensor) for name, tensor in tensors if name.endswith("embed_tokens.weight")), 0)


def load_model(
    model_cls: type[nn.Module],
    path: str | Path,
    config: Emu2Config | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    device_map: str | dict | None = None,
    quantization: str | None = None,
    offload_folder: str | Path | None = None,
    only: str = "",
    tower: bool = True,
) -> nn.Module:
    """Build a model and fill it from files.

    Args:
        model_cls: Emu2ForConditionalGeneration or a class with the same parameters.
        path: see `iterate_tensors`.
        config: where the weights have none beside them, or to overrule it.
        dtype: of the weights in memory; default as stored.
        device: of the whole model, unless there is a `device_map`: "auto" or {module name: device | "cpu" | "disk"}.
        quantization: "nf4" holds the linear layers of the language model's blocks in 4 bits.
        offload_folder: for what goes to "disk"; default a temporary one, removed with the model.
        only: the beginning of the names of what the model takes; all else in the files is passed over.
        tower: False leaves the visual encoder out: its weights are neither read nor held.
    Returns:
        The model in evaluation mode.
    Raises:
        UserError: names or shapes do not agree; the message lists them. Nothing has been read into memory then.
    """
    config = config or read_config(path)
    with torch.device("meta"):
        model = model_cls(config)
    if not tower:
        model.drop_tower()
    if quantization:
        four_bit.quantize_linears(model, quantization, compute_dtype=dtype)
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    left_out = () if tower else TOWER
    found = {name: tuple(t.shape) for name, t in iterate_tensors(path) if _taken(name, only, left_out)}
    check_shapes(path, found, expected)
    placement = Placement(model, device_map or {"": device}, dtype, offload_folder)
    for name, tensor in iterate_tensors(path):
        if _taken(name, only, left_out):
            placement.put(name, tensor)
    compute_buffers(model, placement.resident_device)
    placement.dispatch()
    return model.eval()


def _taken(name: str, only: str, left_out: str | tuple) -> bool:
    return name.startswith(only) and not name.startswith(left_out)


def check_shapes(path: str | Path, found: dict[str, tuple], expected: dict[str, tuple]) -> None:
    """Raises UserError listing what is missing, unexpected or of another shape."""
    problems = {
        "missing": sorted(expected.keys() - found.keys()),
        "unexpected": sorted(found.keys() - expected.keys()),
        "of another shape": [
            f"{name} {list(found[name])} instead of {list(shape)}"
            for name, shape in expected.items()
            if name in found and found[name] != shape
        ],
    }
    if any(problems.values()):
        raise UserError(
            f"{path}: the weights do not fit the model\n"
            + "\n".join(_listing(kind, names) for kind, names in problems.items() if names)
            + "\nCheck that weights and configuration (model.preset or config.json) belong together"
        )


def _listing(kind: str, names: list[str]) -> str:
    more = [f"... and {len(names) - _LISTED} more"] if len(names) > _LISTED else []
    return "\n    ".join([f"  {len(names)} {kind}:", *names[:_LISTED], *more])


def compute_buffers(model: nn.Module, device_of: Callable[[str], Any]) -> None:
    """Give the rotary tables, which no file holds, their values back; always in float32.

    Args:
        device_of: of a module, by its name.
    """
    for path, module in model.named_modules():
        if any(buffer.is_meta for buffer in module.buffers(recurse=False)):
            fresh = type(module)(module.config)
            for name, buffer in fresh.named_buffers(recurse=False):
                module.register_buffer(name, buffer.to(device_of(path)), persistent=False)
