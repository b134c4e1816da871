"""Writing weights: a Hugging Face folder, or one file in the native naming."""

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from emu2_lit.errors import UserError
from emu2_lit.model.configuration import Emu2Config
from emu2_lit.model.model_card import model_card
from emu2_lit.model.weight_files import PICKLES, SUFFIXES, is_index, is_weights
from emu2_lit.model.weight_names import native_name, split_bias
from emu2_lit.model.weight_writing import (
    SHARD_SIZE,
    Layout,
    layout_bytes,
    layout_of,
    require_space,
    whole_file,
    write_json,
    write_safetensors,
    write_shards,
)


def save_pretrained(
    model,
    folder: str | Path,
    processor=None,
    dtype: torch.dtype | None = None,
    max_shard_size: int | str = SHARD_SIZE,
    state_dict: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a folder in the published Hugging Face form: safetensors, config.json, model card.

    Everything is written beside the folder first and takes its place when complete.

    Args:
        model: an Emu2ForConditionalGeneration.
        processor: written too, where given.
        dtype: of the weights written; default as they are.
        max_shard_size: of one file, as "5GB" or in bytes.
        state_dict: instead of the model's own, where that is spread over processes.
    Raises:
        UserError: the disk is too full, or the model is held in 4 bits or on disk.
    """
    folder = Path(folder)
    if folder.is_file():
        raise UserError(f"{folder}: is a file; give a folder to write to")
    state = _whole_state(model, state_dict)
    layout = layout_of(state.items(), dtype)
    require_space(folder, layout_bytes(layout), f"writing {folder}")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        write_shards(partial, layout, iter(state.items()), max_shard_size)
        if processor is not None:
            processor.save_pretrained(partial)
        _write_description(partial, model.config, layout)
        _install(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def save_native(model, file: str | Path, rotary_buffers: bool = False, dtype: torch.dtype | None = None) -> None:
    """Write one file in the native (non Hugging Face) naming.

    Args:
        model: an Emu2ForConditionalGeneration.
        file: its ending decides: .safetensors, or .bin, .pth, .pt for a pickled state dict.
        rotary_buffers: with the `inv_freq` tables, which strict loading in transformers up to 4.31 wants.
        dtype: of the weights written; default as they are.
    Raises:
        UserError: another ending; the tower's keys have a bias; or see `save_pretrained`.
    """
    file = Path(file)
    if file.suffix not in SUFFIXES:
        raise UserError(f"{file}: unknown ending; choose one of {', '.join(SUFFIXES)}")
    state = dict(_native_tensors(model, rotary_buffers))
    layout = layout_of(state.items(), dtype)
    require_space(file, layout_bytes(layout), f"writing {file}")
    if file.suffix in PICKLES:
        with whole_file(file) as opened:
            torch.save({name: tensor.detach().to("cpu", layout[name][0]) for name, tensor in state.items()}, opened)
    else:
        write_safetensors(file, layout, state.items())


def config_values(config: Emu2Config, dtypes: list[str]) -> dict[str, Any]:
    """The content of config.json: our keys, and beside them those that the published code reads."""
    ours, published = config.to_dict(), config.baai_dict()
    vision = {**ours["vision_config"], **published["vision_config"]}
    dtype = dtypes[0]
    return {**ours, **published, "vision_config": vision, "dtype": dtype, "torch_dtype": dtype}


def _whole_state(model, state_dict: Mapping[str, Tensor] | None = None) -> Mapping[str, Tensor]:
    if getattr(model, "is_loaded_in_4bit", False):
        raise UserError("A model held in 4 bits cannot be written: load it without model.quantization and write that")
    state = model.state_dict() if state_dict is None else state_dict
    if any(tensor.is_meta for tensor in state.values()):
        raise UserError("A model that is partly offloaded cannot be written: load it without device_map")
    return state


def _native_tensors(model, rotary_buffers: bool) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in _whole_state(model).items():
        if name.endswith("attn.qkv.bias"):
            yield from split_bias(name, tensor)
        else:
            yield native_name(name), tensor
    if rotary_buffers:
        table = LlamaRotaryEmbedding(model.config.text_config).inv_freq
        for layer in range(model.config.text_config.num_hidden_layers):
            yield f"decoder.lm.model.layers.{layer}.self_attn.rotary_emb.inv_freq", table


def _write_description(folder: Path, config: Emu2Config, layout: Layout) -> None:
    dtypes = sorted({str(dtype).removeprefix("torch.") for dtype, _ in layout.values()})
    parameters = sum(torch.Size(shape).numel() for _, shape in layout.values())
    write_json(folder / "config.json", config_values(config, dtypes))
    with whole_file(folder / "README.md") as file:
        file.write(model_card(config, parameters, dtypes).encode())


def _install(complete: Path, folder: Path) -> None:
    """Give a complete folder its name. Where one is there, its weights go first and config.json comes last, so that
    an interruption leaves a folder that is refused rather than a mixture that loads."""
    if not folder.exists():
        os.replace(complete, folder)
        return
    for old in [folder / "config.json", *folder.iterdir()]:
        if old.name == "config.json" or is_weights(old) or is_index(old):
            old.unlink(missing_ok=True)
    for new in sorted(complete.iterdir(), key=lambda file: file.name == "config.json"):
        os.replace(new, folder / new.name)
