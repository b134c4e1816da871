"""A finished run, or any folder of weights, as a model to talk to."""

from pathlib import Path

import torch
from torch import nn

from emu2_lit.errors import UserError
from emu2_lit.model import Emu2ForConditionalGeneration, Emu2Processor
from emu2_lit.model.loading import load_model
from emu2_lit.model.lora import load_adapter, merge_adapters
from emu2_lit.model.vocabulary import add_role_tokens
from emu2_lit.recipe.schema import ModelSection
from emu2_lit.run.origin import Origin, base_section, resolve


def load_run(
    path: str | Path, dtype: torch.dtype | None = None, quantization: str | None = None, device_map=None
) -> tuple[nn.Module, Emu2Processor]:
    """Model and processor of a run, an adapter folder, a folder or file of weights, or a hub name.

    Returns:
        The model in evaluation mode, its adapter on it, and the processor.
    Raises:
        UserError: there is nothing to load.
    """
    origin, adapter = find(path)
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


def find(path: str | Path) -> tuple[Origin, Path | None]:
    """Where a result lies: its origin, and the adapter that goes on top of it."""
    path = Path(path)
    if (path / "recipe.yaml").is_file() and not (path / "model").is_dir():
        adapter, origin = path / "adapter", resolve(base_section(path))
        if not adapter.is_dir():
            raise UserError(f"{path}: this run has not finished: there is no adapter/ yet. Run it again first")
    elif (path / "adapter_config.json").is_file():
        adapter, origin = path, _base_of_adapter(path)
    else:
        return resolve(ModelSection(weights=str(path))), None
    origin.processor = Emu2Processor.from_pretrained(adapter)
    return origin, adapter


def _base_of_adapter(adapter: Path) -> Origin:
    """What an adapter goes on top of: the run that it lies in knows best, else its own record."""
    if (adapter.parent / "recipe.yaml").is_file():
        return resolve(base_section(adapter.parent))
    from peft import PeftConfig

    base = PeftConfig.from_pretrained(str(adapter)).base_model_name_or_path
    if not base:
        raise UserError(f"{adapter}: the adapter does not say which weights it belongs to")
    return resolve(ModelSection(weights=base))
