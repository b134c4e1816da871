"""The parts of the network that a user freezes, tunes and reads about."""

from collections.abc import Iterable

from torch import nn

from emu2_lit.errors import UserError

PARTS = ("visual", "project_up", "project_down", "embeddings", "lm", "lm_head")


def part_of(name: str) -> str:
    """The part that a parameter belongs to, by its name in the state dict, wrapped by PEFT or not."""
    for marker, part in (
        ("model.visual.", "visual"), ("project_up", "project_up"), ("project_down", "project_down"),
        ("embed_tokens", "embeddings"), ("lm_head", "lm_head"), ("decoder.unet.", "unet"), ("decoder.vae.", "vae"),
    ):  # fmt: skip
        if marker in name:
            return part
    return "lm"


def freeze(model: nn.Module, frozen: Iterable[str]) -> None:
    """Let every part train but the frozen ones.

    Raises:
        UserError: an unknown part, or nothing left to train.
    """
    frozen = set(frozen)
    check_parts(frozen)
    if frozen >= set(PARTS):
        raise UserError("tuning.frozen names every part: nothing is left to train")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name) not in frozen)


def check_parts(names: Iterable[str]) -> None:
    """Raises UserError for a name that is no part."""
    unknown = sorted(set(names) - set(PARTS))
    if unknown:
        raise UserError(f"tuning.frozen: no part is called {', '.join(unknown)}; the parts are {', '.join(PARTS)}")


def tuning_mode(name: str, requires_grad: bool) -> str:
    """How a parameter is tuned: `full`, `lora`, `tokens` (single rows of the embedding) or `frozen`."""
    if not requires_grad:
        return "frozen"
    if "lora_" in name:
        return "lora"
    return "tokens" if "trainable_tokens" in name else "full"


def published(name: str) -> str:
    """The published name of a parameter of the model, wrapped by PEFT or not."""
    return name.removeprefix("base_model.model.").replace(".token_adapter", "").replace(".base_layer", "")
