"""A finished run, or any folder of weights, as a model to talk to."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from emu2_lit.errors import UserError
from emu2_lit.model import Emu2ForConditionalGeneration, Emu2Processor
from emu2_lit.model.loading import load_model
from emu2_lit.model.lora import load_adapter, merge_adapters
from emu2_lit.model.vocabulary import add_role_tokens
from emu2_lit.recipe.schema import ModelSection
from emu2_lit.run.origin import Origin, base_of, resolve


def load_run(
    path: str | Path, dtype: torch.dtype | None = None, quantization: str | None = None, device_map=None,
    base: str | None = None, preset: str | None = None, tokenizer: str | None = None,
) -> tuple[nn.Module, Emu2Processor]:  # fmt: skip
    """Model and processor of a run, an adapter folder, a folder or file of weights, or a hub name.

    Args:
        base: what an adapter goes on top of, where that is not (any more) where the adapter says.
        preset, tokenizer: of weights that come without (native files).

    Returns:
        The model in evaluation mode, its adapter on it, and the processor.
    Raises:
        UserError: there is nothing to load.
    """
    origin, adapter = find(path, ModelSection(weights=base, preset=preset, tokenizer=tokenizer))
    if origin.source is None:
        raise UserError(f"{path}: tuned from random weights, which were not kept; there is nothing to load")
    model = load_model(
        Emu2ForConditionalGeneration, origin.source, config=origin.config, dtype=dtype, quantization=quantization,
        device_map=device_map,
    )  # fmt: skip
    if origin.processor.tokenizer.chat:
        add_role_tokens(model)
    model = merge_adapters(model, origin.merged)
    if adapter is not None:
        model = load_adapter(model, adapter)
    return model.eval(), origin.processor


def find(path: str | Path, given: ModelSection | None = None) -> tuple[Origin, Path | None]:
    """Where a result lies: its origin, and the adapter that goes on top of it.

    Args:
        given: of the weights, where nothing says it or something else is to hold.
    """
    given, path = given or ModelSection(), Path(path)
    adapter = _adapter_at(path)
    if adapter is None:
        return resolve(replace(given, weights=str(path))), None
    origin = base_of(adapter, given)
    origin.processor = Emu2Processor.from_pretrained(adapter)
    return origin, adapter


def _adapter_at(path: Path) -> Path | None:
    """The adapter folder of a run, or the folder itself if it is one."""
    if (path / "adapter_config.json").is_file():
        return path
    if not (path / "recipe.yaml").is_file() or (path / "model").is_dir():
        return None
    if not (path / "adapter").is_dir():
        raise UserError(f"{path}: this run has not finished: there is no adapter/ yet. Run it again first")
    return path / "adapter"
