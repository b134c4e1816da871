"""Which features belong to a recipe: those of its tower, its picture preparation and its arithmetic."""

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from emu2_lit.errors import UserError
from emu2_lit.model.loading import TOWER, iterate_tensors
from emu2_lit.recipe.schema import Recipe
from emu2_lit.run.origin import Origin
from emu2_lit.samples.features import FeatureStore, hash_bytes

MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
TRUE = {"bf16-true": torch.bfloat16, "16-true": torch.float16}
PREPARATION = "upright RGB, bicubic to a square, CLIP mean and deviation"  # change it with model/images.py
_LOOKED_AT = 64  # values of each tensor


def feature_folder(recipe: Recipe, origin: Origin, root: str | Path) -> Path:
    """Where the features of the recipe's tower lie under `root`."""
    return Path(root).expanduser() / features_key(recipe, origin)


def open_features(recipe: Recipe, origin: Origin) -> FeatureStore:
    """The features that `data.features` names. Raises UserError when there are none of this tower."""
    folder, command = feature_folder(recipe, origin, recipe.data.features), _command(recipe)
    if not folder.is_dir():
        raise UserError(
            f"data.features={recipe.data.features}: holds no features of this tower, picture size and precision "
            f"(looked for {folder.name}); make them with `{command}`"
        )
    return FeatureStore(folder, command)


def features_key(recipe: Recipe, origin: Origin) -> str:
    """Names what features depend on beside the picture; weights are looked at, not read whole.

    Raises:
        UserError: an adapter that the run starts from has changed the tower.
    """
    for adapter in [*origin.merged, *filter(None, [recipe.model.adapter])]:
        _check_adapter(Path(adapter))
    vision = origin.config.vision_config.to_dict()
    if origin.source is None:
        weights = f"random {recipe.run.seed} {json.dumps(origin.config.to_dict(), sort_keys=True, default=str)}"
    else:
        weights = _look(iterate_tensors(origin.source))
    about = [weights, vision, PREPARATION, recipe.model.dtype, recipe.trainer.precision]
    return hash_bytes(json.dumps(about, sort_keys=True, default=str).encode()).hex()


def _look(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """A hash of names, shapes and some values of the tower's tensors."""
    told = []
    for name, tensor in tensors:
        if name.startswith(TOWER):
            some = tensor.flatten()[:: max(1, tensor.numel() // _LOOKED_AT)][:_LOOKED_AT]
            told.append(f"{name} {tuple(tensor.shape)} {tensor.dtype} {some.float().tolist()}")
    return hash_bytes("\n".join(sorted(told)).encode()).hex()


def _check_adapter(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        return
    with safe_open(file, framework="pt") as opened:
        if any(TOWER in name for name in opened.keys()):
            raise UserError(
                f"data.features: {folder} changes the tower; merge it first (`emu2-lit export {folder} --to hf "
                "--merge`) and start from the result"
            )


def _command(recipe: Recipe) -> str:
    return f"emu2-lit data cache {recipe.name or 'RECIPE'} --out {recipe.data.features}"
