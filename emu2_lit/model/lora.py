"""LoRA through PEFT, with the names of this model; adapters are ordinary PEFT folders."""

from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME
from safetensors import SafetensorError
from torch import Tensor, nn

from emu2_lit.errors import UserError
from emu2_lit.model.model_card import adapter_card
from emu2_lit.model.parts import part_of
from emu2_lit.model.vocabulary import add_role_tokens
from emu2_lit.model.weight_writing import require_space
from emu2_lit.settings import LM_LINEARS, LoraSettings

TOWER_LINEARS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
PROJECTIONS = ("project_up", "project_down")
LORA_TARGETS = LM_LINEARS + TOWER_LINEARS + PROJECTIONS


def target_part(target: str) -> str:
    """The part of the network that a LoRA target lies in."""
    return "visual" if target in TOWER_LINEARS else part_of(target)


def apply_lora(model: nn.Module, settings: LoraSettings, new_token_ids: Sequence[int] = ()) -> PeftModel:
    """Add trainable adapters to a model whose own parameters are frozen by this.

    Args:
        new_token_ids: rows of the embedding that train and are saved with the adapter (tokens new to the model).
    Raises:
        UserError: a target is not a linear layer of this model, or the rank is not positive.
    """
    unknown = [target for target in settings.targets if target not in LORA_TARGETS]
    if unknown or not settings.targets:
        raise UserError(
            f"tuning.lora.targets: {', '.join(unknown) or 'none given'}; choose from {', '.join(LORA_TARGETS)}"
        )
    if settings.rank < 1:
        raise UserError(f"tuning.lora.rank={settings.rank}: must be at least 1")
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets),
        use_dora=settings.use_dora,
        use_rslora=settings.use_rslora,
        trainable_token_indices={"embed_tokens": list(new_token_ids)} if new_token_ids else None,
        bias="none",
    )
    before = torch.get_rng_state()
    wrapped = get_peft_model(model, config)
    if model.get_input_embeddings().weight.is_meta:
        torch.set_rng_state(before)
        _draw_again(wrapped)
    return wrapped


def _draw_again(model: PeftModel) -> None:
    """Give adapters, which PEFT has moved to the meta device of their base and lost, the values that it drew."""
    for layer in [module for module in model.modules() if isinstance(module, LoraLayer)]:
        for name in layer.lora_A:
            for pair in (layer.lora_A, layer.lora_B):
                pair[name] = nn.Linear(pair[name].in_features, pair[name].out_features, bias=False)
            layer.reset_lora_parameters(name, True)
            if (weight := layer.get_base_layer().weight).is_floating_point():  # quantised weights have bytes
                for pair in (layer.lora_A, layer.lora_B):
                    pair[name].to(weight.dtype)


def save_adapter(
    model: PeftModel, folder: str | Path, base: str | None, state: dict[str, Tensor] | None = None
) -> None:
    """Write an ordinary PEFT folder.

    Args:
        base: hub name or absolute path of the weights that the adapter goes on top of.
        state: instead of the model's own, where that is spread over processes.
    Raises:
        UserError: the disk is too full.
    """
    require_space(Path(folder), sum(p.nbytes for p in model.parameters() if p.requires_grad), f"writing {folder}")
    model.peft_config["default"].base_model_name_or_path = base
    # Rows of new tokens are saved apart. Left to itself, PEFT asks the hub whether the vocabulary has grown.
    model.save_pretrained(str(folder), save_embedding_layers=False, state_dict=state)
    (Path(folder) / "README.md").write_text(adapter_card(base), encoding="utf-8")


def load_adapter(model: nn.Module, folder: str | Path, trainable: bool = False) -> PeftModel:
    """Put the adapter of a PEFT folder onto a model; a base model whose role tokens it trained is given them.

    Raises:
        UserError: the folder is no PEFT folder, or belongs to a model of another shape.
    """
    folder = Path(folder)
    if not (folder / "adapter_config.json").is_file():
        raise UserError(f"{folder}: no adapter here (adapter_config.json is missing)")
    if not any((folder / name).is_file() for name in (SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME)):
        raise UserError(f"{folder}: the adapter has no weights ({SAFETENSORS_WEIGHTS_NAME} is missing)")
    try:
        _grow_for(model, folder)
        return PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
    except (SafetensorError, UnpicklingError) as error:
        raise UserError(f"{folder}: the adapter's weights are damaged or cut short ({error})") from error
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise UserError(f"{folder}: this adapter does not fit the model: {error}") from error


def _grow_for(model: nn.Module, folder: Path) -> None:
    trained = LoraConfig.from_pretrained(str(folder)).trainable_token_indices or {}
    rows = model.get_input_embeddings().num_embeddings
    if any(token >= rows for tokens in trained.values() for token in tokens):
        add_role_tokens(model)


def merge_adapters(model: nn.Module, folders: Sequence[str | Path]) -> nn.Module:
    """Fold adapters into the weights, oldest first. Raises UserError as `load_adapter` does."""
    for folder in folders:
        model = load_adapter(model, folder).merge_and_unload()
    return model
