"""Reading and writing the visual decoder: Emu2-Gen's folder, or the native single file. Strict, streamed."""

import json
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from emu2_lit.errors import UserError
from emu2_lit.model.decoder_config import SAFETY_CHECKER, Emu2DecoderConfig
from emu2_lit.model.loading import check_shapes
from emu2_lit.model.safety import stored_checker_name
from emu2_lit.model.weight_files import find_weights, read_tensors
from emu2_lit.model.weight_writing import layout_bytes, layout_of, require_space

if TYPE_CHECKING:
    from emu2_lit.model.decoder import Emu2VisualDecoder

_NETWORKS = ("unet", "vae")
_SAFETY = "safety_checker"
_CONFIG_FILES = {"unet": "unet/config.json", "vae": "vae/config.json", "scheduler": "scheduler/scheduler_config.json"}
_CONDITION_WEIGHTS = (".attn2.to_k.weight", ".attn2.to_v.weight", ".add_embedding.linear_1.weight")
_RENAMED = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}  # older VAEs


def decoder_tensors(path: str | Path) -> Iterator[tuple[str, Tensor]]:
    """Tensors of the decoder under the names of its state dict (`unet.`, `vae.`, `safety_checker.`), not copied.

    Args:
        path: a folder of Emu2-Gen, or a native file; the multimodal model in it is passed over.
    """
    path = Path(path)
    parts = (*_NETWORKS, _SAFETY)
    if path.is_dir():
        for part in parts:
            if part != _SAFETY or (path / part).is_dir():
                yield from ((_name(f"{part}.{name}"), value) for name, value in read_tensors(find_weights(path / part)))
    else:
        prefixes = tuple(f"{part}." for part in parts)
        stored = read_tensors(find_weights(path))
        yield from ((_name(name), value) for name, value in stored if name.startswith(prefixes))


def _name(stored: str) -> str:
    if stored.startswith("vae."):
        for old, new in _RENAMED.items():
            stored = stored.replace(old, new)
    return stored_checker_name(stored) if stored.startswith(_SAFETY) else stored


def read_decoder_config(folder: str | Path) -> Emu2DecoderConfig:
    """The configuration of a folder.

    Raises:
        UserError: it holds no decoder, or a configuration is damaged or another model's.
    """
    folder = Path(folder)
    absent = [file for file in _CONFIG_FILES.values() if not (folder / file).is_file()]
    if absent:
        raise UserError(
            f"{folder}: no visual decoder here ({', '.join(absent)} missing); give a folder such as that of "
            "BAAI/Emu2-Gen, or the native file"
        )
    values = {part: _read_json(folder / file) for part, file in _CONFIG_FILES.items()}
    for part, key in (("unet", "cross_attention_dim"), ("unet", "sample_size"), ("vae", "block_out_channels")):
        if key not in values[part]:
            raise UserError(f"{folder / _CONFIG_FILES[part]}: not a configuration of Emu2's decoder (it has no {key})")
    safety = folder / _SAFETY / "config.json"
    return Emu2DecoderConfig(**values, safety_checker=_read_json(safety) if safety.is_file() else None)


def load_decoder(
    decoder_cls: type["Emu2VisualDecoder"],
    path: str | Path,
    config: Emu2DecoderConfig | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    safety_checker: bool | None = None,
    condition_width: int | None = None,
) -> "Emu2VisualDecoder":
    """Build a decoder and fill it from files.

    Args:
        path: see `decoder_tensors`.
        config: of a native file; default the published one.
        dtype: of the weights in memory; default as stored. The VAE stays in float32 where this is float16, in which
            SDXL's overflows.
        device: of the weights.
        safety_checker: with it or without; default with it where it is there.
        condition_width: what reads conditions is made anew, for embeddings of this width, from torch's own generator;
            so SDXL becomes a decoder of Emu2 (paper, supplement B.3).
    Returns:
        The decoder in evaluation mode.
    Raises:
        UserError: there is none, or names or shapes do not agree; the message lists them.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder of a visual decoder")
    config = config or (read_decoder_config(path) if path.is_dir() else Emu2DecoderConfig.preset("emu2-gen"))
    found = {name: tuple(tensor.shape) for name, tensor in decoder_tensors(path) if _is_stored(name)}
    config = replace(config, safety_checker=_wanted_checker(path, config, found, safety_checker))
    if condition_width:
        config = config.with_condition_width(condition_width)
        found = {name: shape for name, shape in found.items() if not _reads_conditions(name)}
    if config.safety_checker is None:
        found = {name: shape for name, shape in found.items() if not name.startswith(_SAFETY)}
    if not found:
        raise UserError(f"{path}: no visual decoder in this file (nothing named unet. or vae.)")
    with torch.device("meta"):
        decoder = decoder_cls(config)
    # The checker's names differ between releases of transformers; stored ones are made to match ours below.
    ours = {_name(name): name for name, _ in decoder.named_parameters()}
    if condition_width:
        ours = {stored: name for stored, name in ours.items() if not _reads_conditions(stored)}
    check_shapes(path, found, {name: tuple(decoder.get_parameter(own).shape) for name, own in ours.items()})
    for name, tensor in decoder_tensors(path):
        if name in ours:
            _put(decoder, ours[name], tensor, dtype, device)
    _make_anew(decoder, dtype, device)
    _fill_positions(decoder, device)
    return decoder.eval()


def save_decoder(decoder: "Emu2VisualDecoder", folder: str | Path) -> None:
    """Write `unet/`, `vae/`, `scheduler/` and, where there is one, `safety_checker/`, as diffusers does.

    Each takes its place when all are complete. What else the folder holds stays, so that a tuned decoder can be put
    into a folder of Emu2-Gen.

    Raises:
        UserError: the disk is too full.
    """
    folder = Path(folder)
    if folder.is_file():
        raise UserError(f"{folder}: is a file; give a folder to write to")
    require_space(folder, layout_bytes(layout_of(decoder.state_dict().items())), f"writing {folder}")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    parts = {name: getattr(decoder, name) for name in (*_NETWORKS, "scheduler", _SAFETY)}
    try:
        for name, part in parts.items():
            if part is not None:
                part.save_pretrained(partial / name)
        folder.mkdir(parents=True, exist_ok=True)
        for complete in sorted(partial.iterdir()):
            shutil.rmtree(folder / complete.name, ignore_errors=True)
            os.replace(complete, folder / complete.name)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _read_json(file: Path) -> dict:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file}: not valid JSON ({error})") from error
    if not isinstance(values, dict):
        raise UserError(f"{file}: not a configuration")
    return values


def _is_stored(name: str) -> bool:
    return not name.endswith("position_ids")  # counted, not learned; some releases saved them


def _wanted_checker(path: Path, config: Emu2DecoderConfig, found: dict, wanted: bool | None) -> dict | None:
    there = any(name.startswith(_SAFETY) for name in found)
    if wanted and not there:
        raise UserError(f"{path}: no safety checker here; set safety_checker=False or fetch it again")
    return (config.safety_checker or SAFETY_CHECKER) if there and wanted is not False else None


def _put(decoder, name: str, tensor: Tensor, dtype: torch.dtype | None, device: str | torch.device) -> None:
    """Cast a tensor and make it the parameter of that name; copied, for it may be a view of the file."""
    dtype = torch.float32 if dtype == torch.float16 and name.startswith("vae.") else dtype or tensor.dtype
    module_name, _, leaf = name.rpartition(".")
    module = decoder.get_submodule(module_name)
    trains = getattr(module, leaf).requires_grad
    setattr(module, leaf, torch.nn.Parameter(tensor.to(device, dtype, copy=True), requires_grad=trains))


def _reads_conditions(name: str) -> bool:
    """Whether the width of a weight is that of the conditions."""
    return name.startswith("unet.") and name.endswith(_CONDITION_WEIGHTS)


def _make_anew(decoder, dtype: torch.dtype | None, device: str | torch.device) -> None:
    """Draw the weights that no file has given, as torch draws those of linear layers."""
    for name in [name for name, parameter in decoder.named_parameters() if parameter.is_meta]:
        fresh = torch.empty(decoder.get_parameter(name).shape)
        torch.nn.init.kaiming_uniform_(fresh, a=math.sqrt(5))
        _put(decoder, name, fresh, dtype, device)


def _fill_positions(decoder, device: str | torch.device) -> None:
    """Give the counting buffers, which no file holds, their values back."""
    for module in decoder.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:
                counted = torch.arange(buffer.shape[-1], device=device).expand(buffer.shape)
                module.register_buffer(name, counted, persistent=False)
